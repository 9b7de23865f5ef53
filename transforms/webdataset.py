"""WebDataset shards, as img2dataset writes them: tar files of `KEY.jpg`, `KEY.txt`, `KEY.json`.

Nothing is unpacked: a sample's picture is named by its place in the shard (`SHARD.tar#bytes=OFFSET+SIZE`), and
`storage.read_bytes` reads just that.
"""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

_TEXT_LIMIT = 1 << 20
_MOST = 4 * _TEXT_LIMIT  # of a member's headers, and of the texts of the sample before it
_CAPTION_KEYS = ("caption", "description", "title")


class ShardError(ValueError):
    """The shard is broken from some place on; the message says how."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample with a picture.

    Attributes:
      name: Of the picture in the shard, e.g. `000000012.jpg`.
      offset: Where its bytes begin.
      size: How many they are.
      caption: Of `KEY.txt`, else of `KEY.json`; None if neither says anything.
      fields: The other fields of `KEY.json` that are text or numbers, as text.
    """

    name: str
    offset: int
    size: int
    caption: bytes | str | None
    fields: Mapping[str, str]


def samples(file: BinaryIO, size: int, suffixes: tuple[str, ...]) -> Iterator[Sample]:
    """The samples of a shard, in its order: one for each picture, also where several stand under one key.

    Members of one key (their name up to its first dot) stand together. A picture's text has its name up to the last
    dot, or the key alone.

    Args:
      file: The shard, seekable; only headers and texts are read.
      size: Of the shard in bytes.
      suffixes: What counts as a picture.

    Raises:
      ShardError: From some place on the shard cannot be read; the samples before have been given.
    """
    key: str | None = None
    members: list[tuple[str, tarfile.TarInfo]] = []
    try:
        bounded = _Bounded(file)
        # It has the methods that are called, and tarfile asks for no more.
        with tarfile.open(fileobj=cast("BinaryIO", bounded), mode="r:") as shard:
            last = -1
            for member in shard:
                if member.offset <= last or member.size < 0:  # a size below zero leads back, for ever
                    raise ShardError(f"the header of {member.name!r} is broken")
                last = member.offset
                bounded.left = _MOST
                if not member.isreg() or member.name.rpartition("/")[2].startswith("."):
                    continue
                stem, suffix = _split(member.name)
                if stem != key:
                    yield from _samples(shard, members, suffixes)
                    key, members = stem, []
                if member.offset_data + member.size > size:
                    raise ShardError(f"it is cut off in {member.name}")
                members.append((suffix, member))
                shard.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            yield from _samples(shard, members, suffixes)
            end = int(shard.offset)
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # where tarfile takes a broken header for the end
                raise ShardError(f"the header at byte {end} is broken")
    except ShardError:
        raise
    except RecursionError:  # tarfile reads each from within the one before
        raise ShardError("too many headers stand one before another") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise ShardError(f"it is not a sound tar file ({error})") from error


class _Bounded:
    """A shard of which little is read a member: tarfile reads headers of any size, one before another without end.

    Attributes:
      left: Bytes that may be read until it is set again.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.left = file, _MOST
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _TEXT_LIMIT:
            raise ShardError(f"the header at byte {self._file.tell()} says that it has {size:,} bytes")
        self.left -= size
        if self.left < 0:
            raise ShardError(f"the headers before byte {self._file.tell()} have more than {_MOST:,} bytes")
        return self._file.read(size)


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return folder + slash + stem, (dot + suffix).lower()


def _samples(
    shard: tarfile.TarFile, members: Sequence[tuple[str, tarfile.TarInfo]], suffixes: tuple[str, ...]
) -> Iterator[Sample]:
    """The samples of one key; `members` with what follows the key in their names."""
    others = dict(members)
    for suffix, picture in members:
        part, dot, kind = suffix.rpartition(".")
        if dot + kind not in suffixes:
            continue
        text = _read(shard, others.get(part + ".txt", others.get(".txt")))
        try:
            fields = json.loads(_read(shard, others.get(part + ".json", others.get(".json"))) or b"{}")
        except (ValueError, RecursionError):
            fields = {}
        fields = fields if isinstance(fields, dict) else {}
        told = next((fields[key] for key in _CAPTION_KEYS if isinstance(fields.get(key), str) and fields[key]), None)
        caption = text if text and text.strip() else told
        yield Sample(picture.name, picture.offset_data, picture.size, caption, _plain(fields))


def _read(shard: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes | None:
    if member is None or member.size > _TEXT_LIMIT:
        return None
    file = shard.extractfile(member)
    return file.read() if file else None


def _plain(fields: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
        if name not in _CAPTION_KEYS and isinstance(value, str | int | float) and not isinstance(value, bool)
    }
