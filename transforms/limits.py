"""A time limit for one piece of work, whatever it waits for: a server that drips, a pipe nobody writes to, C code."""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

ITEM_SECONDS = 600
"""How long one step may take over one item. A scan of 400 megapixels takes about half of it on one slow core."""

_GRACE = 5.0  # for work that watches the limit itself, and says more precisely what happened

_T = TypeVar("_T")
_mine = threading.local()


def remaining() -> float | None:
    """Seconds left to the work that this thread does under `within`; None if there is no limit."""
    deadline: float | None = getattr(_mine, "deadline", None)
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """`call()`, given up after `seconds`.

    It runs in a thread of its own. One that is given up ends as soon as it is back in Python; while it waits in the
    kernel or works in C code it stays, and does not hold up the exit. So this is for what should not happen.

    Raises:
      TimeoutError: It took longer.
    """
    results: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        _mine.deadline = time.monotonic() + seconds
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        result, error = results.get(timeout=seconds + _GRACE)
    except queue.Empty:
        _stop(thread)
        raise TimeoutError(f"no end after {seconds:.0f} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _stop(thread: threading.Thread) -> None:
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
