"""A time limit for one piece of work, whatever it waits for: a server that drips, a pipe nobody writes to, C code."""

from __future__ import annotations

import ctypes
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

ITEM_SECONDS = 600
"""How long one step may take over one item. A scan of 400 megapixels takes about half of it on one slow core."""

_GRACE = 5.0  # for work that watches the limit itself, and says more precisely what happened

_T = TypeVar("_T")
_mine = threading.local()


def remaining() -> float | None:
    """Seconds left to the work that this thread does under `within`; None if there is no limit."""
    deadline: float | None = getattr(_mine, "deadline", None)
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class Unfinished(Exception):
    """There is no result yet."""


class InThread(Generic[_T]):
    """`call()` in a thread of its own, which can be left behind: it does not hold up the exit.

    Args:
      call: What to do.
    """

    def __init__(self, call: Callable[[], _T]) -> None:
        self._results: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                self._results.put((call(), None))
            except BaseException as error:
                self._results.put((None, error))

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def result(self, seconds: float) -> _T:
        """Waits for it that long. Raises what it raised, or `Unfinished`."""
        try:
            result, error = self._results.get(timeout=seconds)
        except queue.Empty:
            raise Unfinished from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """`call()`, given up after `seconds`.

    It runs in a thread of its own. One that is given up ends as soon as it is back in Python; while it waits in the
    kernel or works in C code it stays, and does not hold up the exit. So this is for what should not happen.

    Raises:
      TimeoutError: It took longer.
    """

    def work() -> _T:
        _mine.deadline = time.monotonic() + seconds
        return call()

    running = InThread(work)
    try:
        return running.result(seconds + _GRACE)
    except Unfinished:
        _stop(running.thread)
        raise TimeoutError(f"no end after {seconds:.0f} s") from None


def _stop(thread: threading.Thread) -> None:
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
