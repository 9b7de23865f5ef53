#!/usr/bin/env bash
# A small Flink cluster on this machine: one JobManager, two TaskManagers of one slot each.
#
#   flink.sh install      Flink and Beam's runner for it, into FLINK_HOME
#   flink.sh start        prints the JobManager's address once both TaskManagers are there
#   flink.sh kill N       kills TaskManager N (1 or 2) as a crash would, without a goodbye
#   flink.sh worker N     starts TaskManager N again
#   flink.sh stop
#   flink.sh options      what `unfade` is to be told, one option a line
#
# From the environment: FLINK_HOME (.flink in the working directory), FLINK_PORT (8081) and FLINK_RPC_PORT (6123),
# FLINK_TASK_MANAGERS (2), JAVA (java), PYTHON (python3: of an environment that has unfade).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
HOME_=$(realpath -m "${FLINK_HOME:-.flink}")
PORT=${FLINK_PORT:-8081}
RPC_PORT=${FLINK_RPC_PORT:-6123}
JOB_PORT=${FLINK_JOB_PORT:-8099}
COUNT=${FLINK_TASK_MANAGERS:-2}
JAVA=${JAVA:-java}
PYTHON=${PYTHON:-python3}

FLINK=1.19.3 # the newest of the series that the runner in pom.xml is made for
JAR=$HOME_/beam-flink.jar
# Beam's runner is in the cluster's own class path: were it sent along with each job, Flink would end a job's Python
# workers whenever a TaskManager has nothing to do for it, and start them anew for its next stage.
CLASSES="$HOME_/flink-$FLINK/*:$JAR"

# What Java 17 must leave open, as in the configuration that Flink ships.
OPENS=()
for package in java.lang java.lang.reflect java.net java.io java.nio java.text java.time java.util \
    java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks sun.net.util sun.nio.ch; do
    OPENS+=("--add-opens=java.base/$package=ALL-UNNAMED")
done

install() {
    mkdir -p "$HOME_"
    if [ ! -e "$HOME_/flink-$FLINK" ]; then
        rm -rf "$HOME_/download"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --target "$HOME_/download" \
            "apache-flink-libraries==$FLINK"
        mkdir "$HOME_/download/classes"
        mv "$HOME_"/download/pyflink/lib/{flink-dist,log4j}-*.jar "$HOME_/download/classes"
        mv "$HOME_/download/classes" "$HOME_/flink-$FLINK"
        rm -rf "$HOME_/download"
    fi
    if [ ! "$JAR" -nt "$HERE/pom.xml" ]; then
        mvn --quiet --batch-mode --no-transfer-progress --file "$HERE/pom.xml" package "-Doutput=$HOME_/build"
        mv "$HOME_/build/beam-flink.jar" "$JAR"
        touch "$JAR"
        rm -rf "$HOME_/build"
    fi
}

# background NAME JVM-OPTIONS... CLASS: a Java process that goes on, its number in NAME.pid, its words in NAME.log.
background() {
    local name=$1
    shift
    # The workers that a TaskManager starts find their Python by PATH.
    PATH="$(dirname "$(command -v "$PYTHON")"):$PATH" nohup "$JAVA" -XX:+UseSerialGC "${OPENS[@]}" \
        "-Dlog4j.configurationFile=$HERE/log4j.properties" -cp "$CLASSES" "$@" \
        >"$HOME_/$name.log" 2>&1 </dev/null &
    echo $! >"$HOME_/$name.pid"
}

task_manager() {
    background "taskmanager-$1" -Xmx640m org.apache.flink.runtime.taskexecutor.TaskManagerRunner \
        --configDir "$HOME_/conf"
}

end() { # NAME SIGNAL
    [ -e "$HOME_/$1.pid" ] || return 0
    local number
    number=$(cat "$HOME_/$1.pid")
    rm -f "$HOME_/$1.pid"
    ps -p "$number" -o args= | grep -q "$HOME_" || return 0 # another has got its number
    kill "-$2" "$number" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$number" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$number" 2>/dev/null || true
}

stop() {
    local file
    for file in "$HOME_"/jobserver.pid "$HOME_"/taskmanager-*.pid "$HOME_"/jobmanager.pid; do
        [ -e "$file" ] && end "$(basename "$file" .pid)" TERM
    done
    return 0
}

start() {
    stop
    rm -rf "$HOME_/temporary"
    mkdir -p "$HOME_/conf" "$HOME_/temporary"
    sed "s|@HOME@|$HOME_|; s|@PORT@|$PORT|; s|@RPC_PORT@|$RPC_PORT|" "$HERE/flink-conf.yaml" >"$HOME_/conf/flink-conf.yaml"
    background jobmanager -Xmx1g org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint \
        --configDir "$HOME_/conf"
    background jobserver -Xmx512m org.apache.beam.runners.flink.FlinkJobServerDriver --flink-master "localhost:$PORT" \
        --job-host localhost --job-port "$JOB_PORT" --artifact-port 0 --expansion-port 0 \
        --artifacts-dir "$HOME_/temporary"
    local number
    await 0 # a TaskManager that finds none waits long before it looks again
    for number in $(seq "$COUNT"); do
        task_manager "$number"
    done
    await "$COUNT"
    echo "http://localhost:$PORT"
}

await() { # Until the JobManager answers and has so many TaskManagers.
    local number end=$((SECONDS + 120))
    while [ $SECONDS -lt $end ]; do
        if "$PYTHON" - "$PORT" "$1" 2>/dev/null <<'END'; then
import json, sys, urllib.request
with urllib.request.urlopen(f"http://localhost:{sys.argv[1]}/overview", timeout=5) as answer:
    sys.exit(json.load(answer)["taskmanagers"] < int(sys.argv[2]))
END
            return
        fi
        for number in $(cat "$HOME_"/*.pid); do
            kill -0 "$number" || break 2
        done
        sleep 0.5
    done
    tail -n 5 "$HOME_"/*.log >&2
    echo "flink.sh: the cluster did not come up; its words are in $HOME_/*.log" >&2
    stop
    exit 1
}

options() {
    cat <<END
--runner=PortableRunner
--job_endpoint=localhost:$JOB_PORT
--parallelism=$COUNT
--environment_type=PROCESS
--environment_config={"command": "$HERE/boot"}
--environment_cache_millis=60000
--experiments=pre_optimize=all
END
}

case ${1:-} in
install) install ;;
start) start ;;
stop) stop ;;
kill) end "taskmanager-$2" KILL ;;
worker) task_manager "$2" ;;
options) options ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
