"""Can this storage be reached at all? Asked once, before any work, and answered within seconds."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import google.auth
import google.auth.exceptions
from apache_beam.internal.gcp import auth as beam_auth
from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems
from google.api_core import exceptions as api_exceptions

from transforms import storage
from transforms.items import UsageError

CREDENTIALS_SECONDS = 5.0
BUCKET_SECONDS = 20.0

_T = TypeVar("_T")


def check_access(uri: str) -> None:
    """Makes sure that `uri`'s storage can be reached, as far as can be told before the work starts.

    Local paths always pass. For `gs://`: there are credentials (Beam alone waits some 25 s before it says so, then goes
    on without), and the bucket exists and may be listed. Objects are not looked for: an output need not exist.

    Raises:
      UsageError: One line: the item, the cause, the mend.
    """
    if not storage.is_remote(uri):
        return
    scheme = scheme_of(uri)
    if not is_supported(uri):
        mend = "leave out `file://`" if scheme == "file" else "use a local path or gs://BUCKET/..."
        raise UsageError(f"{uri}: `{scheme}://` is not supported; {mend}")
    if scheme == "gs":
        _check_gcs(uri)


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
    bucket, _, start = prefix.removeprefix("gs://").partition("/")
    # Beam's own listing keeps every name and date in memory; the client's does not.
    blobs = _client(prefix).list_blobs(bucket, prefix=start, fields="items(name),nextPageToken")
    names: Iterator[str] = (f"gs://{bucket}/{blob.name}" for blob in blobs)
    # Cloud Storage lists in order, its emulators need not.
    yield from sorted(names) if os.environ.get("STORAGE_EMULATOR_HOST") else names


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
        _within(
            BUCKET_SECONDS,
            lambda: list(_client(uri).list_blobs(bucket, max_results=1, retry=None, timeout=BUCKET_SECONDS)),
        )
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
        raise UsageError(f"{uri}: {host} cannot be reached ({_one_line(error)}); check the network") from None


def _check_credentials(uri: str) -> None:
    mend = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
    # Says on standard error, three times, what the line below says once.
    logging.getLogger("google.auth.compute_engine._metadata").setLevel(logging.ERROR)
    try:
        _within(CREDENTIALS_SECONDS, google.auth.default)
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


def _client(uri: str) -> Any:
    """The storage client Beam itself uses, with the pipeline's options (impersonation, project)."""
    return FileSystems.get_filesystem(uri)._gcsIO().client


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """`call()`, given up after `seconds`: its thread goes on by itself, and does not hold up the exit."""
    results: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
