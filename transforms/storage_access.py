"""Can this storage be reached at all? Asked once, before any work, and answered within seconds."""

from __future__ import annotations

import errno
import logging
import os
import pathlib
import tempfile
from collections.abc import Iterator

import google.auth
import google.auth.exceptions
from apache_beam.internal.gcp import auth as beam_auth
from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems
from google.api_core import exceptions as api_exceptions

from transforms import buckets, retrying, storage
from transforms.items import UsageError

CREDENTIALS_SECONDS = 5.0
BUCKET_SECONDS = 20.0
REPEAT_SECONDS = 8.0
"""How long the question whether a bucket is there is repeated."""


def check_access(uri: str, *, write: bool = False) -> None:
    """Makes sure that `uri`'s storage can be reached, as far as can be told before the work starts.

    For `gs://`: there are credentials (Beam alone waits some 25 s before it says so, then goes on without), and the
    bucket exists and may be listed. Objects are not looked for: an output need not exist.

    Args:
      uri: Local or remote.
      write: Whether it is to be written to: then a local folder takes a trial file (which has no name, and is gone
        at once) and has no folders of ours that are really elsewhere, and the bucket's permissions allow it.

    Raises:
      UsageError: One line: the item, the cause, the mend.
    """
    if not storage.is_remote(uri):
        if write:
            _check_folder(uri)
            _check_links(uri)
        return
    scheme = scheme_of(uri)
    if not is_supported(uri):
        mend = "leave out `file://`" if scheme == "file" else "use a local path or gs://BUCKET/..."
        raise UsageError(f"{uri}: `{scheme}://` is not supported; {mend}")
    if scheme == "gs":
        _check_gcs(uri)
        if write:
            _check_may_write(uri)


def scheme_of(uri: str) -> str:
    """`gs` of `gs://...`; "" for local paths."""
    return str(FileSystems.get_scheme(uri) or "")


def is_supported(uri: str) -> bool:
    """True if Beam has a file system for the URI's scheme."""
    scheme = scheme_of(uri)
    return scheme != "file" and any(known.scheme() == (scheme or None) for known in FileSystem.get_all_subclasses())


def list_objects(prefix: str) -> Iterator[str]:
    """URIs of all objects that begin with `prefix`, sorted. Streams from `gs://`, however many they are."""
    if scheme_of(prefix) != "gs":
        yield from storage.match(f"{prefix}**")
        return
    yield from buckets.names(prefix)  # Beam's own listing keeps every name and date in memory


def _check_folder(folder: str) -> None:
    """Writes a nameless file into what there is of the path, so that nothing is left of the trial."""
    there = pathlib.Path(folder).absolute()
    while not os.path.lexists(there):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        mend = "free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "allow this user to write there"
        raise UsageError(
            f"{folder} cannot be written: {there}: {error.strerror or error}; {mend}, or name another --output"
        ) from None


_FOLDERS = ("images", "metrics", "errors", "unfinished", "report", "report/data", "report/previews")
"""Below an output: files there are replaced and removed."""


def _check_links(folder: str) -> None:
    for name in _FOLDERS:
        place = os.path.join(folder, name)
        if storage.leads_out(place, folder):
            raise UsageError(f"{place} leads out of {folder} by a link; remove the link, or name another --output")


def _check_may_write(uri: str) -> None:
    bucket, needed = uri.removeprefix("gs://").split("/")[0], "storage.objects.create"
    try:
        granted = retrying.within(
            BUCKET_SECONDS,
            lambda: buckets.client().bucket(bucket).test_iam_permissions([needed], timeout=BUCKET_SECONDS, retry=None),
        )
    except Exception:
        return  # not every store answers this question; the first write will
    if needed not in granted:
        raise UsageError(
            f"{uri}: these credentials may not write to gs://{bucket}; grant them roles/storage.objectUser there"
        )


def _check_gcs(uri: str) -> None:
    bucket = uri.removeprefix("gs://").split("/")[0]
    if not bucket:
        raise UsageError(f"{uri} names no bucket; write gs://BUCKET/...")
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        _skip_credentials()
    else:
        _check_credentials(uri)
    try:
        retrying.within(BUCKET_SECONDS, lambda: buckets.peek(bucket, REPEAT_SECONDS))
    except api_exceptions.NotFound:
        raise UsageError(f"{uri}: there is no bucket gs://{bucket}; check its name, or create it") from None
    except (api_exceptions.Forbidden, api_exceptions.Unauthorized):
        raise UsageError(
            f"{uri}: these credentials may not list gs://{bucket}; grant them roles/storage.objectUser there"
        ) from None
    except google.auth.exceptions.GoogleAuthError as error:
        raise UsageError(
            f"{uri}: Google Cloud refuses the credentials ({_one_line(error)}); "
            "run `gcloud auth application-default login` again"
        ) from None
    except Exception as error:
        host = emulator or "storage.googleapis.com"
        raise UsageError(f"{uri}: {host} cannot be reached ({retrying.cause(error)}); check the network") from None


def _check_credentials(uri: str) -> None:
    mend = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
    # Says on standard error, three times, what the line below says once.
    logging.getLogger("google.auth.compute_engine._metadata").setLevel(logging.ERROR)
    try:
        retrying.within(CREDENTIALS_SECONDS, google.auth.default)
    except google.auth.exceptions.DefaultCredentialsError as error:
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise UsageError(f"{uri}: GOOGLE_APPLICATION_CREDENTIALS is of no use: {_one_line(error)}") from None
        raise UsageError(f"{uri}: there are no Google Cloud credentials here; {mend}") from None
    except TimeoutError:
        raise UsageError(f"{uri}: no Google Cloud credentials found in {CREDENTIALS_SECONDS:.0f} s; {mend}") from None
    except Exception as error:
        raise UsageError(f"{uri}: Google Cloud credentials cannot be had ({_one_line(error)}); {mend}") from None


def _skip_credentials() -> None:
    """An emulator asks for none; Beam would look for them for some 25 s all the same."""
    credentials = getattr(beam_auth, "_Credentials", None)
    if credentials is not None and hasattr(credentials, "_credentials_init"):
        credentials._credentials_init = True


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
