"""What flows through every pipeline: an image/caption pair, and the record of one that failed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Pair:
    """One photograph and what the catalogue knows of it. Holds names, never pixels, so it may cross a shuffle.

    Attributes:
      id: Names the item in every output. Relative, `/` as separator; unique within one input.
      uri: Where the picture is: a local path or `gs://...`.
      caption: The catalogue's caption. None: the input names none, look inside the file.
      references: URIs of related pictures whose palette may help.
      target: URI of the undamaged original, where one exists.
      extra: Columns of the manifest that unfade has no use for, carried through to the metrics.
      sidecar: URI of the caption file beside the picture, read only when the picture is (`captions.caption_of`).
    """

    id: str
    uri: str
    caption: str | None = None
    references: tuple[str, ...] = ()
    target: str | None = None
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sidecar: str | None = None


@dataclasses.dataclass(frozen=True)
class ItemError:
    """One item that failed, as it stands in `errors/errors-*.jsonl`.

    Attributes:
      id: The item's id ("" where it failed before it had one).
      uri: Where its picture is, or the manifest and line that named it.
      stage: The step that failed: `input`, `read`, `decode`, `caption`, `inference`, `encode`, `write`, ...
      error: Short stable class to group by, e.g. `NotFound`, `Truncated`, `NotAnImage`.
      message: One sentence for a person: the cause, and the mend where there is one.
      retryable: True where the same run may well succeed later (network, full disk).
    """

    id: str
    uri: str
    stage: str
    error: str
    message: str
    retryable: bool = False

    def to_json(self) -> str:
        """One line of `errors-*.jsonl` (keys sorted, UTF-8 kept readable)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)


class ItemFailure(Exception):
    """Raised by any per-item step: this item fails, its neighbours go on. Becomes an `ItemError`.

    Args:
      error: See `ItemError.error`.
      message: See `ItemError.message`.
      retryable: See `ItemError.retryable`.
    """

    def __init__(self, error: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(error, message)
        self.error = error
        self.message = message
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_failure, (self.error, self.message, self.retryable)


def _rebuild_failure(error: str, message: str, retryable: bool) -> ItemFailure:
    return ItemFailure(error, message, retryable=retryable)


class UsageError(Exception):
    """The command as given cannot be run; found before any work. One clear line, exit status 2."""


def printable(text: str) -> str:
    """Text in one line that cannot steer a terminal: names of files may hold its escape sequences, or turn it round."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
