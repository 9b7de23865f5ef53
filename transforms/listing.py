"""What lies below a folder, by one listing however many files there are: names, sizes, times, kinds of content."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import google_crc32c
from apache_beam.io.filesystems import FileSystems

from transforms import buckets, retrying, storage, storage_access


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One file.

    Attributes:
      uri: Where it is.
      size: In bytes.
      time: When it was last written, in Unix seconds by the storage's own clock.
      version: Other content has another: see `local_version` and `content_version`.
    """

    uri: str
    size: int
    time: float
    version: str


def below(prefix: str) -> Iterator[Entry]:
    """Every file below a local folder, or every object whose URI begins with `prefix`, in no certain order.

    Nothing if the folder does not exist. Links to folders are not followed.
    """
    if not storage.is_remote(prefix):
        yield from _local(prefix)
    elif storage_access.scheme_of(prefix) == "gs":
        for blob in buckets.blobs(prefix, "name,size,updated,crc32c"):
            uri = f"gs://{blob.bucket.name}/{blob.name}"
            yield Entry(uri, blob.size, blob.updated.timestamp(), f"{blob.size}-{blob.crc32c}")
    else:
        [match] = FileSystems.match([f"{prefix}**"])
        for file in match.metadata_list:
            yield Entry(file.path, file.size_in_bytes, file.last_updated_in_seconds, f"{file.size_in_bytes}")


def _local(folder: str) -> Iterator[Entry]:
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file():
                        status = entry.stat()
                        yield Entry(entry.path, status.st_size, status.st_mtime, _status_version(status))
        except (FileNotFoundError, NotADirectoryError):
            continue  # gone meanwhile, or never there


def local_version(path: str) -> str:
    """Size and time of a local file; "missing" if there is none. No bytes are read."""
    try:
        return _status_version(os.stat(path))
    except (OSError, ValueError):
        return "missing"


def _status_version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def content_version(uri: str, data: bytes) -> str:
    """What a listing of the store says of an object with this content: size, and on `gs://` CRC-32C."""
    if storage_access.scheme_of(uri) != "gs":
        return str(len(data))
    return f"{len(data)}-{retrying.crc32c_text(google_crc32c.value(data))}"
