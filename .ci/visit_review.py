"""Does what a person does with `unfade review DIR`: opens the page it names, decides about pictures, ends it by Ctrl-C.

python .ci/visit_review.py restored/ red-panda.jpg=reject 'bata-drums.jpg=caption:Three drums on green grass'
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request


def main(folder: str, decisions: list[str]) -> None:
    """Raises if the page or a decision is refused, or the command does not end well."""
    command = ["unfade", "review", folder, "--no_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as desk:
        try:
            assert desk.stdout
            line = desk.stdout.readline()
            address = line.removeprefix("review: ").strip()
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"<title>" in answer.read(), f"{address} shows no page"
            for text in decisions:
                name, _, made = text.partition("=")
                kind, _, caption = made.partition(":")
                record = {"id": name, "decision": kind, **({"caption": caption} if caption else {})}
                request = urllib.request.Request(
                    address.replace("report/index.html", "decisions"),
                    json.dumps(record).encode(),
                    {"Content-Type": "application/json"},
                )
                urllib.request.urlopen(request, timeout=60).close()
        finally:
            desk.send_signal(signal.SIGINT)
        print(line + desk.stdout.read(), end="")
    assert desk.returncode == 0, f"ended with {desk.returncode}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
