"""Files by URI: read, write whole or not at all, list. Local, `gs://` (`buckets`), others by Beam's FileSystems."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import http.client
import io
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from google.api_core import exceptions as api_exceptions

from transforms import buckets, retrying, timing
from transforms.items import ItemFailure, UsageError


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


def is_part(uri: str) -> bool:
    """Whether it names a part of a file, see `part_uri`."""
    return _PART.fullmatch(uri) is not None


def _too_large(uri: str, size: int, most: int) -> ItemFailure:
    return ItemFailure("TooLarge", f"{uri} has {size:,} bytes, more than {most:,}; split it")


@timing.timed(timing.STORE_READ)
def read_bytes(uri: str, most: int = retrying.MOST_BYTES) -> bytes:
    """The whole of one file, or of one part of it (see `part_uri`); `http://` and `https://` are read, too.

    Args:
      uri: Which.
      most: How many bytes it may have.

    Raises:
      ItemFailure: `NotFound`, `PermissionDenied`, `NotAFile`, `TooLarge` or (retryable) `ReadFailed`; `Truncated` for a
        part that the file ends before.
    """
    if part := _PART.fullmatch(uri):
        if (size := int(part[3])) > most:
            raise _too_large(uri, size, most)
        return _read_part(part[1], int(part[2]), size)
    if uri.startswith(("http://", "https://")):
        return _read_http(uri, most)
    if not is_remote(uri):
        # The plain call says precisely what is wrong; FileSystems wraps it.
        try:
            if os.path.exists(uri) and not os.path.isfile(uri):
                raise ItemFailure("NotAFile", f"{uri} is a folder, pipe or device, not a regular file; leave it out")
            with open(uri, "rb") as file:
                if (size := os.fstat(file.fileno()).st_size) > most:  # of a sparse file bytes are in memory alone
                    raise _too_large(uri, size, most)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise ItemFailure("NotFound", f"{uri} does not exist; check the name in the manifest") from None
        except PermissionError:
            raise ItemFailure("PermissionDenied", f"{uri} may not be read by this user") from None
        except (OSError, ValueError) as error:
            # A name that no file system takes will not be taken tomorrow either.
            final = isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
            mend = "leave it out, or rename it" if final else "run again, or check the disk"
            raise ItemFailure("ReadFailed", f"{uri} could not be read: {error}; {mend}", retryable=not final) from error
    try:
        if buckets.is_bucket(uri):
            return buckets.read(uri, most)
        out = io.BytesIO()
        with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            shutil.copyfileobj(file, retrying.Measured(out, most))
        return out.getvalue()
    except Exception as error:
        raise _read_failure(uri, error) from error


def _read_part(uri: str, offset: int, size: int) -> bytes:
    try:
        if buckets.is_bucket(uri):
            data = buckets.read_part(uri, offset, size)
        else:
            with open_binary(uri) as file:
                file.seek(offset)
                data = file.read(size)
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


def _read_http(uri: str, most: int) -> bytes:
    try:
        return retrying.policy(retrying.WEB_SECONDS)(_http_attempt)(uri, most)
    except ValueError as error:
        raise ItemFailure("ReadFailed", f"{uri} is no address: {error}") from error
    except Exception as error:
        code = getattr(error, "code", None)
        if code in (404, 410):
            raise ItemFailure("NotFound", f"{uri} does not exist (HTTP {code}); check its address") from error
        if code in (401, 403):
            raise ItemFailure("PermissionDenied", f"{uri} may not be read (HTTP {code})") from error
        raise _read_failure(uri, error) from error


def _http_attempt(uri: str, most: int) -> bytes:
    out = io.BytesIO()
    measured = retrying.Measured(out, most)

    def call() -> None:
        request = urllib.request.Request(uri, headers={"User-Agent": "unfade"})
        try:
            with urllib.request.urlopen(request, timeout=retrying.SOCKET_SECONDS) as answer:
                shutil.copyfileobj(answer, measured, 1 << 16)
                length = answer.headers.get("Content-Length")
        except urllib.error.HTTPError as error:
            raise api_exceptions.from_http_status(error.code, error.reason) from error
        except urllib.error.URLError as error:  # hides whether it is worth another attempt
            raise (error.reason if isinstance(error.reason, OSError) else error) from None
        if length and length.isdigit() and int(length) != measured.size:
            raise http.client.IncompleteRead(b"", int(length) - measured.size)

    retrying.within(retrying.WINDOW_SECONDS, call, measured)
    return out.getvalue()


def _read_failure(uri: str, error: BaseException) -> ItemFailure:
    """What a store's refusal means for the item."""
    if _caused_by(error, (api_exceptions.NotFound, FileNotFoundError)):
        return ItemFailure(
            "NotFound", f"{uri} does not exist; check the name in the manifest, and whether it was removed since"
        )
    if _caused_by(error, (api_exceptions.Forbidden, api_exceptions.Unauthorized)):
        return ItemFailure("PermissionDenied", f"{uri} may not be read with these credentials")
    if isinstance(error, retrying.TooLarge):
        return ItemFailure("TooLarge", f"{uri} is too large: {error}; split it, or leave it out")
    if _is_damaged(error):
        mend = "the store or the network alters it: run again, or upload it anew"
        return ItemFailure("Damaged", f"{uri} arrives damaged: {retrying.cause(error)}; {mend}", retryable=True)
    return ItemFailure(
        "ReadFailed", f"{uri} could not be read: {retrying.cause(error)}{_mend(error)}", retryable=_may_pass(error)
    )


def _is_damaged(error: BaseException) -> bool:
    return isinstance(error.cause if isinstance(error, api_exceptions.RetryError) else error, retrying.Damaged)


def _may_pass(error: BaseException) -> bool:
    """Whether a later run may succeed: all but what the store or server refuses for good."""
    return not isinstance(error, api_exceptions.ClientError) or retrying.is_transient(error)


def _mend(error: BaseException) -> str:
    if isinstance(error, api_exceptions.PreconditionFailed):
        return "; see the bucket's retention and organisation policies"
    return "; run again later for what is missing" if _may_pass(error) else ""


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


@timing.timed(timing.STORE_WRITE)
def write_bytes(uri: str, data: bytes, lasting: bool = False) -> None:
    """Writes one file atomically: readers see the old content or the new, never a torn one.

    Args:
      uri: Where to.
      data: Its content.
      lasting: Whether this holds after a power cut, too: the disk has the content before the file gets its name. It
        takes some 50 ms on a busy disk. For what other files are checked by; those need it not.

    Raises:
      ItemFailure: As `write_through`.
    """

    def write(path: str) -> None:
        with open(path, "wb") as out:
            out.write(data)
            if lasting:
                out.flush()
                os.fsync(out.fileno())

    if not is_remote(uri):
        write_through(uri, write)
        return
    try:  # a bucket object is atomic by nature, and the bytes are at hand: no detour by the disk
        if buckets.is_bucket(uri):
            buckets.write(uri, data)
            return
        with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
    except Exception as error:
        raise _write_failure(uri, error) from error


def exists(uri: str) -> bool:
    """True if the file, object or (local) folder exists.

    Raises:
      ItemFailure: The store does not say.
    """
    if not is_remote(uri):
        return os.path.exists(uri)
    try:
        return buckets.exists(uri) if buckets.is_bucket(uri) else bool(FileSystems.exists(uri))
    except Exception as error:
        raise _read_failure(uri, error) from error


def listing(folder: str, names: str) -> list[str]:
    """URIs of the files directly in a folder whose names match a glob, sorted. Empty if there are none.

    Args:
      folder: Taken literally, whatever characters it has.
      names: e.g. `errors-*.jsonl`; `**` for all files below the folder.

    Raises:
      ItemFailure: The store refuses to list.
    """
    if buckets.is_bucket(folder):
        start = folder.rstrip("/") + "/"
        prefix = start + re.split(r"[*?[]", names, maxsplit=1)[0]
        try:
            found = [uri[len(start) :] for uri in buckets.names(prefix)]
        except Exception as error:
            raise _read_failure(folder, error) from error
        return sorted(start + name for name in found if names == "**" or _in_folder(name, names))
    if is_remote(folder):
        return match(join(glob.escape(folder), names))
    pattern = os.path.join(glob.escape(folder), "**/*" if names == "**" else names)
    return sorted(path for path in glob.glob(pattern, recursive=True, include_hidden=True) if os.path.isfile(path))


def _in_folder(name: str, names: str) -> bool:
    return "/" not in name and fnmatch.fnmatchcase(name, names)


def match(pattern: str) -> list[str]:
    """URIs that match a glob (`*` within a folder, `**` across folders), sorted. Empty if there are none."""
    try:
        [match] = FileSystems.match([pattern])
    except BeamIOError as error:
        raise UsageError(f"cannot list {pattern}: {error}") from error
    return sorted(metadata.path for metadata in match.metadata_list)


def check_place(uri: str, folder: str) -> None:
    """Makes sure that a file can be written at `uri`, and that this is really below `folder`, links followed.

    Raises:
      ItemFailure: `UnsafeOutput`: a link leads out; `DuplicateOutput`: a file stands for a folder, or the other way.
    """
    if is_remote(folder):  # objects have no links, and names no folders
        return
    parent = os.path.abspath(os.path.dirname(uri))
    if leads_out(parent, folder):
        raise ItemFailure("UnsafeOutput", f"{uri} leads out of {folder} by a link; remove the link")
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or os.path.isdir(uri):
        taken = uri if os.path.isdir(uri) else parent
        raise ItemFailure(
            "DuplicateOutput", f"{uri} cannot be written: another item's {taken} stands there; give it another id"
        )


def leads_out(path: str, folder: str) -> bool:
    """Whether a local path, links followed, is not below a folder, nor that itself."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) != root


def is_same(uri: str, other: str) -> bool:
    """Whether two names are of one file: links are followed, but a second name of its own (a hard link) is another."""
    if is_remote(uri) or is_remote(other):
        return uri == other
    return os.path.realpath(uri) == os.path.realpath(other)


def folds_names(folder: str) -> bool:
    """Whether `A.jpg` and `a.jpg`, or two forms of an accent, are one file there: on disks of Windows, macOS, cameras.

    Args:
      folder: Exists, if it is local. A file is written there and removed.

    Raises:
      ItemFailure: `WriteFailed`, naming the cause.
    """
    if is_remote(folder):
        return False
    probe = join(folder, "names \N{LATIN SMALL LETTER E WITH ACUTE}")
    write_bytes(probe, b"")
    try:
        return any(
            os.path.exists(join(folder, name))
            for name in ("NAMES \N{LATIN CAPITAL LETTER E WITH ACUTE}", "names e\u0301")
        )
    finally:
        delete([probe])


def delete(uris: list[str]) -> None:
    """Removes files; those already gone are no error.

    Raises:
      ItemFailure: `WriteFailed`, naming the cause.
    """
    for uri in uris:
        try:
            if buckets.is_bucket(uri):
                buckets.delete(uri)
            elif is_remote(uri):
                if exists(uri):
                    FileSystems.delete([glob.escape(uri)])
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.remove(uri)
        except Exception as error:
            raise _write_failure(uri, error, "removed") from error


def copy(source: str, destination: str) -> None:
    """Copies a file, which may be larger than memory, atomically.

    Raises:
      ItemFailure: It could not be read or written.
    """
    with local_copy(source) as path:

        def write(new: str) -> None:
            shutil.copyfile(path, new)

        write_through(destination, write)


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
      ItemFailure: `DiskFull`, `ReadOnly`, `PermissionDenied` or `WriteFailed`, naming cause and mend.
    """
    try:
        if is_remote(uri):  # a bucket object is atomic by nature
            with tempfile.TemporaryDirectory() as folder:
                local = os.path.join(folder, "part")
                write(local)
                with open(local, "rb") as source:
                    _upload(uri, source)
            return
        os.makedirs(os.path.dirname(uri) or ".", exist_ok=True)
        temporary = _temporary_beside(uri)
        try:
            write(temporary)
            os.replace(temporary, uri)
        finally:
            with contextlib.suppress(OSError):  # it would hide why the write failed
                os.remove(temporary)
    except Exception as error:
        raise _write_failure(uri, error) from error


def _upload(uri: str, source: BinaryIO) -> None:
    if buckets.is_bucket(uri):
        buckets.upload(uri, source, os.fstat(source.fileno()).st_size)
        return
    with FileSystems.create(uri, compression_type=CompressionTypes.UNCOMPRESSED) as out:
        shutil.copyfileobj(source, out, 1 << 20)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _write_failure(uri: str, error: BaseException, what: str = "written") -> ItemFailure:
    """What a refusal to write means for the item, and what mends it."""
    number = error.errno if isinstance(error, OSError) else None
    # TensorFlow's writers have errors of their own, and say in words what the system said.
    if number in _FULL or "No space left on device" in str(error) or "File too large" in str(error):
        mend = "free space or raise the quota, then run again for what is missing"
        return ItemFailure("DiskFull", f"{uri} could not be {what}: {_reason(error)}; {mend}", retryable=True)
    if number == errno.EROFS:
        mend = "mount it for writing, or name another --output"
        return ItemFailure("ReadOnly", f"{uri} could not be {what}: {_reason(error)}; {mend}")
    if isinstance(error, PermissionError):
        mend = "allow this user to write there, or name another --output"
        return ItemFailure("PermissionDenied", f"{uri} could not be {what}: {_reason(error)}; {mend}")
    if isinstance(error, (api_exceptions.Forbidden, api_exceptions.Unauthorized)):
        mend = "grant these credentials roles/storage.objectUser on the bucket"
        return ItemFailure("PermissionDenied", f"{uri} could not be {what}: {retrying.cause(error)}; {mend}")
    return ItemFailure(
        "WriteFailed", f"{uri} could not be {what}: {_reason(error)}{_mend(error)}", retryable=_may_pass(error)
    )


def _reason(error: BaseException) -> str:
    """One line; of what the system said, its words alone: the name is that of a temporary file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return retrying.cause(error)


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
            with open(path, "wb") as out:
                if buckets.is_bucket(uri):
                    buckets.download(uri, out)
                else:
                    with FileSystems.open(uri, compression_type=CompressionTypes.UNCOMPRESSED) as source:
                        shutil.copyfileobj(source, out, 1 << 20)
        except Exception as error:
            raise _read_failure(uri, error) from error
        yield path


def _temporary_beside(uri: str) -> str:
    return os.path.join(os.path.dirname(uri), f".unfade-{uuid.uuid4().hex}.tmp")


def is_temporary(path: str) -> bool:
    """Whether a local file is one that a write which was cut off left behind."""
    return re.fullmatch(r"\.unfade-[0-9a-f]{32}\.tmp", os.path.basename(path)) is not None
