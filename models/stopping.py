"""Graphs that come to no end are stopped: one that was only given up would go on beside the pictures after it.

A thread cannot be ended from outside while it is in TensorFlow, and a loop there takes a core for good: after a few of
them sound pictures are late as well. TensorFlow ends a graph between two of its operations, if it is asked in the way
used here (version 2.21 has no public one).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stopped_after(seconds: float | None) -> Iterator[None]:
    """Stops the graphs that this thread runs within, once `seconds` are over; None: never.

    Raises:
      TimeoutError: One was stopped.
    """
    if seconds is None:
        yield
        return
    # Here, because it takes seconds to load: jobs are put together without it.
    import tensorflow as tf
    from tensorflow.python.eager import cancellation

    manager = cancellation.CancellationManager()
    timer = threading.Timer(seconds, manager.start_cancel)
    timer.daemon = True
    timer.start()
    try:
        with cancellation.CancellationManagerContext(manager):
            yield
    except tf.errors.CancelledError:
        if not manager.is_cancelled:
            raise
        raise TimeoutError(f"no end after {seconds:.0f} s") from None
    finally:
        timer.cancel()
