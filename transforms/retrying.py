"""Requests to stores and servers, made again as long as that may help: one policy for all of them.

Google's own (https://cloud.google.com/storage/docs/retry-strategy): exponential backoff with jitter, bounded by a
deadline; here also for answers that arrive damaged. A request that crawls is cut off: a timeout on a socket never fires
where a byte comes now and then.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import google_crc32c
import requests.exceptions
from apache_beam.metrics.metric import Metrics
from google.api_core import exceptions as api_exceptions
from google.api_core.retry import Retry
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import _should_retry

from transforms import limits

SECONDS = 180.0
"""How long a request to a store is made again and again."""

WEB_SECONDS = 30.0
"""The same for web servers, which are often gone for good."""

INITIAL_SECONDS, MAXIMUM_SECONDS = 1.0, 30.0
"""Bounds of the wait before the second and the later attempts; it is drawn from 0 to a bound that doubles."""

SOCKET_SECONDS = 60.0
"""How long a connection may be silent."""

WINDOW_SECONDS, WINDOW_BYTES = 60.0, 600_000
"""An attempt that brings fewer bytes within this time (less than 10 kB a second) is given up."""

REPEATED = "repeated_requests"
"""Name of the counter of attempts that failed and were made again, in Beam's metrics and in summaries."""

MOST_BYTES = 8 << 30
"""Larger files are refused, as their bytes would be in memory; a server may well send without end."""

_T = TypeVar("_T")


class Damaged(Exception):
    """What arrived is not what was sent; the message says by which sign."""


class TooLarge(Exception):
    """More arrived than is taken."""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, api_exceptions.BadRequest):  # the store found that what it received is damaged
        return "doesn't match calculated" in str(error)
    damaged = (Damaged, DataCorruption, http.client.HTTPException, requests.exceptions.JSONDecodeError)
    return isinstance(error, (*damaged, TimeoutError, socket.gaierror)) or bool(_should_retry(error))


def policy(seconds: float | None = None) -> Retry:
    """The policy, for google-cloud-storage's `retry` or around a function.

    Args:
      seconds: The deadline; `SECONDS` if None.

    A request that is still refused at the deadline, or when the item's own time is over (`limits`), raises
    `google.api_core.exceptions.RetryError`.
    """
    longest, left = SECONDS if seconds is None else seconds, limits.remaining()
    return Retry(
        predicate=is_transient,
        initial=INITIAL_SECONDS,
        maximum=MAXIMUM_SECONDS,
        multiplier=2.0,
        timeout=longest if left is None else min(longest, left),
        on_error=_count,
    )


def _count(error: Exception) -> None:
    Metrics.counter("unfade_storage", REPEATED).inc()


def cause(error: BaseException) -> str:
    """One line: why the last attempt failed, and whether there were others before it."""
    last = error.cause or error if isinstance(error, api_exceptions.RetryError) else error
    # Without the request's address and the library's own words: the item is named already.
    told = re.sub(r"\S+://\S*: |: \('Request failed with status code'.*", "", str(last))
    if isinstance(last, InvalidResponse):
        told = f"HTTP {last.response.status_code}"
    line = f"{type(last).__name__}: {' '.join(told.split())}"[:300]
    return line if last is error else f"{line} (after repeated attempts)"


def crc32c_text(crc: int) -> str:
    """A CRC32C as Cloud Storage writes it: base64 of its big-endian bytes."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


class Measured:
    """A stream for writing that knows how much went through, and its CRC32C.

    Args:
      out: Where it goes: a binary stream.
      most: How many bytes it takes.

    Attributes:
      size: How many it has taken.
      given_up: Set when nobody wants them any more: the next ends the call that brings them.
    """

    def __init__(self, out: Any, most: int = MOST_BYTES) -> None:
        self._out, self._crc, self._most = out, 0, most
        self.size = 0
        self.given_up = False

    def write(self, data: bytes) -> None:
        """Hands the data on. Raises `TooLarge` for what is too much."""
        if self.given_up:
            raise Damaged("it was given up")
        if self.size + len(data) > self._most:
            raise TooLarge(f"it has more than {self._most:,} bytes")
        self._out.write(data)
        self._crc = google_crc32c.extend(self._crc, data)
        self.size += len(data)

    @property
    def crc32c(self) -> str:
        """See `crc32c_text`."""
        return crc32c_text(self._crc)


def within(seconds: float, call: Callable[[], _T], measured: Measured | None = None) -> _T:
    """`call()`, given up after `seconds`, or once it moves fewer than `WINDOW_BYTES` within them.

    A call that is given up goes on in its thread, which does not hold up the exit, until more bytes come.

    Args:
      seconds: At most, or the length of a window.
      call: What to do.
      measured: What it writes to; None: it has `seconds` in all.

    Raises:
      TimeoutError: It was given up.
    """
    running = limits.InThread(call)
    before = 0
    try:
        while True:
            left = limits.remaining()
            try:
                return running.result(seconds if left is None else min(seconds, left))
            except limits.Unfinished:
                if limits.remaining() == 0:
                    raise TimeoutError("the time that one item has is over") from None
                if measured is None:
                    raise TimeoutError(f"no answer in {seconds:.0f} s") from None
                now = measured.size
                if now - before < WINDOW_BYTES:
                    raise TimeoutError(f"only {now - before} bytes in {seconds:.0f} s") from None
                before = now
    finally:
        if measured is not None:
            measured.given_up = True
