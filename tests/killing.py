"""Runs `unfade restore` again and again, each time in a process of its own that may be killed, for little start-up.

Reads a JSON list of arguments a line, answers with the process that runs them, then with how it ended.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Serves until its input ends."""
    import tensorflow as tf  # noqa: F401 - loaded before the fork, and first used after it

    from pipelines import restore
    from transforms import inference, loading  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.setsid()
            os.dup2(2, 1)
            status = 99
            try:
                status = restore.main(json.loads(line))
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
