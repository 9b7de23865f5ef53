"""The console command: quick to answer, and one line for what it does not know."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest

from pipelines import cli

ROOT = pathlib.Path(__file__).parent.parent
HEAVY = ("tensorflow", "apache_beam", "numpy", "pyarrow", "keras")


def unfade(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, which ends by saying which heavy libraries it has loaded."""
    code = (
        "import sys\nfrom pipelines import cli\nstatus = 0\ntry:\n    cli.run(sys.argv[1:])\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])\nsys.exit(status)"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_is_quick(flag: str) -> None:
    done = unfade(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("loaded:\n")
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout


def test_version() -> None:
    done = unfade("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"unfade {metadata.version('unfade')}\nloaded:\n", "")


def test_no_command() -> None:
    done = unfade()
    assert done.returncode == 2
    assert done.stdout.startswith("usage: unfade COMMAND")
    assert done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize("word", ["restor", "--model", "os", "cli", "../x", ""])
def test_unknown_command(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([word, "--input", "x"])
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err == f"unfade: unknown command {word!r}; one of: {', '.join(cli.COMMANDS)}\n"


def test_every_command_has_its_module() -> None:
    for name in cli.COMMANDS:
        assert (ROOT / "pipelines" / f"{name}.py").is_file()


def test_arguments_reach_the_command(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(["report", str(tmp_path)])
    assert caught.value.code == 2
    assert f"{tmp_path} holds no finished results" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_while_it_loads(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "restore", "--input", str(ROOT / "samples"), "--output"]
    with subprocess.Popen(
        [*command, str(tmp_path / "out")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as run:
        time.sleep(1.0)
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=60)
    assert (run.returncode, told) == (130, "unfade: stopped by SIGINT\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_job_is_put_together_without_tensorflow(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, apache_beam\nfrom pipelines import options, restore\n"
        "from models.contract import DEFAULT_MODEL, DEFAULT_SHA256\n"
        "from transforms import inference, resume\n"
        "given = options.parse('restore', '', restore.RestoreOptions, sys.argv[1:], options.ModelOptions)\n"
        "assert inference.check_model(DEFAULT_MODEL) == DEFAULT_SHA256\n"
        "pipeline = apache_beam.Pipeline(options=given)\n"
        "earlier = resume.find(given.view_as(options.JobOptions).output, False, False)\n"
        "restore.build(pipeline, given, None, DEFAULT_SHA256, {}, earlier)\n"
        "pipeline.to_runner_api()\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "--input", f"{ROOT}/samples/pairs.csv", "--output", f"{tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    assert done.stdout.split() == ["loaded:", "apache_beam", "numpy", "pyarrow"]


@pytest.mark.slow
def test_bad_usage_is_told_before_tensorflow_loads(tmp_path: pathlib.Path) -> None:
    done = unfade("restore", "--input", f"{tmp_path}/nowhere.csv", "--output", f"{tmp_path}/out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere.csv does not exist" in done.stderr
    assert "tensorflow" not in done.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- 2>&-"])
def test_a_scheduler_that_gives_no_streams(closed: str, tmp_path: pathlib.Path) -> None:
    command = f"exec '{sys.executable}' -m pipelines.cli report '{tmp_path}' {closed}"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_native_thread_does_not_end_a_finished_command(tmp_path: pathlib.Path) -> None:
    """Threads that are still there when a command has ended are not waited for, nor torn down: its status stands."""
    code = (
        "import sys, threading, time\nfrom pipelines import cli\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\nsys.argv = ['unfade', *sys.argv[1:]]\ncli.main()"
    )
    command = [sys.executable, "-c", code, "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=50)
    assert done.returncode == 2
    assert "holds no finished results" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "terminal", "said"),
    [
        (["restore", "--bad"], True, True),
        (["restore", "--bad"], False, False),
        (["restore", "--bad", "--progress", "quiet"], True, False),
        (["restore", "--progress=json", "--bad"], True, False),
        (["plan", "--bad"], True, False),
    ],
)
def test_a_terminal_is_told_what_takes_its_time(
    arguments: list[str],
    terminal: bool,
    said: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with pytest.raises(SystemExit):
        cli.run(arguments)
    assert capsys.readouterr().err.startswith("loading TensorFlow and Beam\n") == said
