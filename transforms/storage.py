"""Files by URI, local or `gs://`, through Beam's FileSystems: read, write whole or not at all, list."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.api_core import exceptions as api_exceptions

from transforms.items import ItemFailure, UsageError

HTTP_SECONDS = 60.0
"""How long a web server may take to answer."""


MOST_BYTES = 8 << 30
"""Larger files are refused: of a sparse one the bytes are in memory alone."""


def is_remote(uri: str) -> bool:
    """True for `scheme://...` URIs."""
    return "://" in uri


def join(base: str, *parts: str) -> str:
    """`base/part/...` with forward slashes, whatever the scheme."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


_PART = re.compile(r"(.*)#bytes=(\d+)\+(\d+)", re.DOTALL)


def part_uri(uri: str, offset: int, size: int) -> str:
    """Names a part of a file, such as a member of a tar: `read_bytes` reads just that."""
    return f"{uri}#bytes={offset}+{size}"


def read_bytes(uri: str) -> bytes:
    """The whole of one file, or of one part of it (see `part_uri`); `http://` and `https://` are read, too.

    Raises:
      ItemFailure: `NotFound`, `PermissionDenied`, `NotAFile`, `TooLarge` or (retryable) `ReadFailed`; `Truncated` for a
        part that the file ends before.
    """
    if part := _PART.fullmatch(uri):
        return _read_part(part[1], int(part[2]), int(part[3]))
    if uri.startswith(("http://", "https://")):
        return _read_http(uri)
    if not is_remote(uri):
        # The plain call says precisely what is wrong; FileSystems wraps it.
        try:
            if os.path.exists(uri) and not os.path.isfile(uri):
                raise ItemFailure("NotAFile", f"{uri} is a folder, pipe or device, not a regular file; leave it out")
            with open(uri, "rb") as file:
                if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                    raise ItemFailure("TooLarge", f"{uri} has {size:,} bytes, more than {MOST_BYTES:,}; split it")
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise ItemFailure("NotFound", f"{uri} does not exist; check the name in the manifest") from None
        except PermissionError:
            raise ItemFailure("PermissionDenied", f"{uri} may not be read by this user") from None
        except (OSError, ValueError) as error:
            # A name that no file system takes will not be taken tomorrow either.
            final = isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
            raise ItemFailure("ReadFailed", f"{uri} could not be read: {error}", retryable=not final) from error
    try:
        with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return bytes(file.read())
    except Exception as error:
        raise _read_failure(uri, error) from error


def _read_part(uri: str, offset: int, size: int) -> bytes:
    try:
        with open_binary(uri) as file:
            file.seek(offset)
            data: bytes = file.read(size)
    except Exception as error:
        raise _read_failure(uri, error) from error
    if len(data) < size:
        raise ItemFailure("Truncated", f"{uri} ends before byte {offset + size}; fetch it again from its source")
    return data


def open_binary(uri: str) -> Any:
    """A file opened for reading, seekable. Raises what the file system raises, and OSError for what is no file."""
    if is_remote(uri):
        return FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED)
    if os.path.exists(uri) and not os.path.isfile(uri):  # opening a pipe would wait for its writer
        raise OSError(errno.EINVAL, "not a regular file", uri)
    return open(uri, "rb")


def _read_http(uri: str) -> bytes:
    try:
        request = urllib.request.Request(uri, headers={"User-Agent": "unfade"})
        with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise ItemFailure("NotFound", f"{uri} does not exist (HTTP {error.code})") from error
        if error.code in (401, 403):
            raise ItemFailure("PermissionDenied", f"{uri} may not be read (HTTP {error.code})") from error
        again = error.code == 429 or error.code >= 500
        raise ItemFailure("ReadFailed", f"{uri} could not be read: HTTP {error.code}", retryable=again) from error
    except (OSError, ValueError) as error:
        raise ItemFailure("ReadFailed", f"{uri} could not be read: {error}", retryable=True) from error


def _read_failure(uri: str, error: BaseException) -> ItemFailure:
    """What a store's refusal means for the item."""
    if _caused_by(error, (api_exceptions.NotFound, FileNotFoundError)):
        return ItemFailure("NotFound", f"{uri} does not exist; check the name in the manifest")
    if _caused_by(error, (api_exceptions.Forbidden, api_exceptions.Unauthorized)):
        return ItemFailure("PermissionDenied", f"{uri} may not be read with these credentials")
    return ItemFailure("ReadFailed", f"{uri} could not be read: {error}", retryable=True)


def _caused_by(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an exception, or one that it was raised from, is of these kinds: Beam wraps what the store says."""
    while error is not None:
        if isinstance(error, kinds):
            return True
        details = getattr(error, "exception_details", None)
        if isinstance(details, dict) and any(isinstance(detail, kinds) for detail in details.values()):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_bytes(uri: str, data: bytes) -> None:
    """Writes one file atomically: readers see the old content or the new, never a torn one.

    Raises:
      ItemFailure: `WriteFailed` (retryable), naming the cause.
    """

    def write(path: str) -> None:
        with open(path, "wb") as out:
            out.write(data)

    if not is_remote(uri):
        write_through(uri, write)
        return
    try:  # a bucket object is atomic by nature, and the bytes are at hand: no detour by the disk
        with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
    except Exception as error:
        raise _write_failure(uri, error) from error


def exists(uri: str) -> bool:
    """True if the file, object or (local) folder exists."""
    return bool(FileSystems.exists(uri)) if is_remote(uri) else os.path.exists(uri)


def listing(folder: str, names: str) -> list[str]:
    """URIs of the files directly in a folder whose names match a glob, sorted. Empty if there are none.

    Args:
      folder: Taken literally, whatever characters it has.
      names: e.g. `errors-*.jsonl`; `**` for all files below the folder.
    """
    if is_remote(folder):
        return match(join(glob.escape(folder), names))
    pattern = os.path.join(glob.escape(folder), "**/*" if names == "**" else names)
    return sorted(path for path in glob.glob(pattern, recursive=True, include_hidden=True) if os.path.isfile(path))


def match(pattern: str) -> list[str]:
    """URIs that match a glob (`*` within a folder, `**` across folders), sorted. Empty if there are none."""
    try:
        [match] = FileSystems.match([pattern])
    except BeamIOError as error:
        raise UsageError(f"cannot list {pattern}: {error}") from error
    return sorted(metadata.path for metadata in match.metadata_list)


def delete(uris: list[str]) -> None:
    """Removes files; those already gone are no error."""
    for uri in uris:
        if not is_remote(uri):
            with contextlib.suppress(FileNotFoundError):
                os.remove(uri)
    remote = [uri for uri in uris if is_remote(uri) and exists(uri)]
    if remote:
        FileSystems.delete([glob.escape(uri) for uri in remote])


def copy_tree(source: str, destination: str) -> None:
    """Copies every file below `source` to the same relative place below `destination`, each atomically.

    Raises:
      ItemFailure: A file could not be read or written.
    """
    root = source.rstrip("/") + "/"
    for path in listing(source.rstrip("/"), "**"):
        write_bytes(join(destination, path[len(root) :]), read_bytes(path))


def write_through(uri: str, write: Callable[[str], None]) -> None:
    """Writes a file too large for memory: `write` fills a local path, which then takes its place atomically.

    Raises:
      ItemFailure: `WriteFailed` (retryable), naming the cause.
    """
    try:
        if is_remote(uri):  # a bucket object is atomic by nature
            with tempfile.TemporaryDirectory() as folder:
                local = os.path.join(folder, "part")
                write(local)
                with (
                    open(local, "rb") as source,
                    FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as out,
                ):
                    shutil.copyfileobj(source, out, 1 << 20)
            return
        os.makedirs(os.path.dirname(uri) or ".", exist_ok=True)
        temporary = _temporary_beside(uri)
        try:
            write(temporary)
            os.replace(temporary, uri)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    except Exception as error:
        raise _write_failure(uri, error) from error


def _write_failure(uri: str, error: BaseException) -> ItemFailure:
    return ItemFailure("WriteFailed", f"{uri} could not be written: {error}", retryable=True)


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path with the file's content: the file itself, or a copy that is removed at the end.

    Raises:
      ItemFailure: As `read_bytes`.
    """
    if not is_remote(uri):
        yield uri
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "copy")
        try:
            with (
                FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as source,
                open(path, "wb") as out,
            ):
                shutil.copyfileobj(source, out, 1 << 20)
        except Exception as error:
            raise _read_failure(uri, error) from error
        yield path


def _temporary_beside(uri: str) -> str:
    return os.path.join(os.path.dirname(uri), f".unfade-{uuid.uuid4().hex}.tmp")
