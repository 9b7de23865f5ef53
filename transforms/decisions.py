"""What people decided about restored pictures: one JSON line an item, written by the review desk, obeyed by `restore`.

{"id": "box1/scan3.tif", "decision": "reject"}
{"id": "box1/scan4.tif", "decision": "caption", "caption": "The harbour at Nagasaki, about 1865"}

A caption may stand beside any decision: what was restored by a corrected caption and accepted stays so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from transforms import storage
from transforms.items import UsageError

ACCEPT, REJECT, INPUT, CAPTION = "accept", "reject", "input", "caption"

KINDS = (ACCEPT, REJECT, INPUT, CAPTION)
"""The restored picture is good; it is not; the input is better than any restoration; restore it by another caption."""

FILE = "decisions.jsonl"
"""Where `unfade review` keeps them, and `restore` what it obeyed, in the run's output folder."""

_CAPTION_LIMIT = 20_000


@dataclasses.dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes:
      id: The item's.
      decision: One of `KINDS`.
      caption: The right caption, to restore by; "" where the catalogue's is right. `CAPTION` has one.
    """

    id: str
    decision: str
    caption: str = ""

    def as_dict(self) -> dict[str, str]:
        """As in the file: `caption` only where there is one."""
        return {"id": self.id, "decision": self.decision, **({"caption": self.caption} if self.caption else {})}


def parse(record: Any) -> Decision:
    """A decision from what its JSON held.

    Raises:
      ValueError: It is none; the message says why.
    """
    if not isinstance(record, Mapping):
        raise ValueError("not an object with id and decision")
    id, decision, caption = record.get("id"), record.get("decision"), record.get("caption", "")
    if not isinstance(id, str) or not id:
        raise ValueError("id is missing")
    if decision not in KINDS:
        raise ValueError(f"decision must be one of {', '.join(KINDS)}, not {decision!r}")
    if not isinstance(caption, str) or len(caption) > _CAPTION_LIMIT:
        raise ValueError(f"caption must be text of at most {_CAPTION_LIMIT} characters")
    if decision == CAPTION and not caption.strip():
        raise ValueError("caption is missing")
    return Decision(id, decision, caption.strip())


def loads(text: str) -> dict[str, Decision]:
    """Decisions by id; of several about one item the last counts.

    Raises:
      ValueError: A line is no decision; the message names it.
    """
    found = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                decision = parse(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            found[decision.id] = decision
    return found


def dumps(decisions: Iterable[Decision]) -> str:
    """The file's text, a line each, in the order given."""
    return "".join(json.dumps(decision.as_dict(), ensure_ascii=True) + "\n" for decision in decisions)


def read(uri: str) -> dict[str, Decision]:
    """Decisions of a file by id.

    Raises:
      UsageError: The file cannot be read, or is no file of decisions.
    """
    if not storage.exists(uri):
        raise UsageError(f"{uri} does not exist; the review page downloads it, and `unfade review` writes it")
    try:
        return loads(storage.read_bytes(uri).decode("utf-8-sig"))
    except ValueError as error:
        raise UsageError(f"{uri} is no file of decisions: {error}") from error


def write(uri: str, known: Mapping[str, Decision]) -> None:
    """Writes decisions, by id, as a file, in place of what it held.

    Raises:
      ItemFailure: `WriteFailed`.
    """
    storage.write_bytes(uri, dumps(known[id] for id in sorted(known)).encode())


def keep(folder: str, obeyed: Mapping[str, Decision]) -> None:
    """Adds what a run obeys to its folder's `FILE`, in place of earlier decisions about the same items.

    So its report knows what has been decided, whatever file that came from.

    Raises:
      UsageError: See `read`.
      ItemFailure: `WriteFailed`.
    """
    uri = storage.join(folder, FILE)
    known = read(uri) if storage.exists(uri) else {}
    merged = {**known, **obeyed}
    if merged != known:
        write(uri, merged)
