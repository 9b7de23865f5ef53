"""Objects of Google Cloud Storage: read and written whole, checked against the store's CRC32C, retried.

Beam's file system reads an object in ranges, which no checksum covers, and makes a client for every object; here one
client serves a process, and each transfer is one request whose digest is compared.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from apache_beam.io.filesystems import FileSystems
from google.api_core import exceptions as api_exceptions
from google.cloud import storage as gcs

from transforms import retrying

_CHUNK = 4 << 20  # bytes of a large upload sent at a time, each within the socket's timeout


def is_bucket(uri: str) -> bool:
    """True for `gs://...`."""
    return uri.startswith("gs://")


def client() -> gcs.Client:
    """The process's client: the one Beam would use, with the pipeline's options (impersonation, project)."""
    return _client(os.environ.get("STORAGE_EMULATOR_HOST"), FileSystems._pipeline_options)


@functools.lru_cache(maxsize=4)
def _client(emulator: str | None, options: Any) -> gcs.Client:
    if emulator:  # it asks for no credentials; Beam would look for them for some 25 s all the same
        return gcs.Client.create_anonymous_client()
    return FileSystems.get_filesystem("gs://")._gcsIO().client


def _blob(uri: str) -> gcs.Blob:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return client().bucket(bucket).blob(name)


def read(uri: str, most: int = retrying.MOST_BYTES) -> bytes:
    """The whole of one object. Raises what the store says, and `retrying.TooLarge` if it has more bytes than `most`."""
    out = io.BytesIO()
    download(uri, out, most)
    return out.getvalue()


def download(uri: str, out: BinaryIO, most: int = retrying.MOST_BYTES) -> None:
    """Writes the whole of one object into an empty file. Raises as `read`."""

    def attempt() -> None:
        out.seek(0)
        out.truncate()
        blob, measured = _blob(uri), retrying.Measured(out, most)
        _fetch(blob, measured)
        if blob.crc32c is None:  # the answer's headers did not say
            blob.reload(retry=None)
        if blob.crc32c not in (None, measured.crc32c):
            raise retrying.Damaged(f"its {measured.size} bytes have CRC32C {measured.crc32c}, not {blob.crc32c}")

    retrying.policy()(attempt)()


def read_part(uri: str, offset: int, size: int) -> bytes:
    """Bytes of an object, fewer where it ends before. The store has no digest of a part. Raises what the store says."""

    def attempt() -> bytes:
        out = io.BytesIO()
        try:
            _fetch(_blob(uri), retrying.Measured(out), offset, offset + size - 1)
        except api_exceptions.RequestRangeNotSatisfiable:
            return b""
        return out.getvalue()

    return retrying.policy()(attempt)() if size else b""


def _fetch(blob: gcs.Blob, measured: retrying.Measured, start: int | None = None, end: int | None = None) -> None:
    def call() -> None:
        # Not resumed in the middle, not checked by the library: it checks no part, and no answer without a digest.
        blob.download_to_file(
            measured,
            start=start,
            end=end,
            raw_download=True,
            checksum=None,
            retry=None,
            timeout=retrying.SOCKET_SECONDS,
        )

    retrying.within(retrying.WINDOW_SECONDS, call, measured)


def write(uri: str, data: bytes) -> None:
    """Writes one object, whole or not at all. Raises what the store says."""
    upload(uri, io.BytesIO(data), len(data))


def upload(uri: str, source: BinaryIO, size: int) -> None:
    """Writes one object from an open file, whole or not at all. Raises what the store says.

    That the request is repeated where it is not known whether it succeeded does no harm: it writes the same bytes.
    """

    def attempt() -> None:
        source.seek(0)
        blob = _blob(uri)
        blob.chunk_size = _CHUNK
        try:
            blob.upload_from_file(
                source,
                size=size,
                content_type="application/octet-stream",
                checksum="crc32c",  # sent along, so that the store takes nothing damaged
                retry=retrying.policy(),
                timeout=retrying.SOCKET_SECONDS,
            )
        except api_exceptions.ClientError as error:
            if error.code not in (400, 404, 410) or "upload_id=" not in str(error):
                raise
            # From the start: a piece arrived whose answer was lost, or the session expired.
            raise retrying.Damaged(f"the upload broke off: HTTP {error.code}") from error
        if blob.size != size:
            raise retrying.Damaged(f"the store says it took {blob.size} bytes of {size}")

    retrying.policy()(attempt)()


def exists(uri: str) -> bool:
    """Whether there is such an object."""
    return bool(_blob(uri).exists(retry=retrying.policy(), timeout=retrying.SOCKET_SECONDS))


def names(prefix: str) -> Iterator[str]:
    """URIs of all objects that begin with `prefix`, sorted. Streams, however many they are."""
    found = (f"gs://{blob.bucket.name}/{blob.name}" for blob in blobs(prefix, "name"))
    # Cloud Storage lists in order, its emulators need not.
    yield from sorted(found) if os.environ.get("STORAGE_EMULATOR_HOST") else found


def blobs(prefix: str, fields: str) -> Iterator[gcs.Blob]:
    """All objects that begin with `prefix`. Streams, however many they are. Raises what the store says.

    Args:
      prefix: Start of their URIs.
      fields: What is asked of each, e.g. `name,size`; the others are None.
    """
    bucket, _, start = prefix.removeprefix("gs://").partition("/")
    token = None
    while True:
        page, token = retrying.policy()(_page)(bucket, start, token, fields)
        yield from page
        if token is None:
            return


def peek(bucket: str, seconds: float) -> None:
    """Asks for one name of a bucket, at most for so long. Raises what the store says: that there is none, for one."""
    retrying.policy(seconds)(_page)(bucket, "", None, "name", 1)


def _page(
    bucket: str, prefix: str, token: str | None, fields: str, most: int | None = None
) -> tuple[list[gcs.Blob], str | None]:
    found = client().list_blobs(
        bucket,
        prefix=prefix,
        fields=f"items({fields}),nextPageToken",
        page_token=token,
        max_results=most,
        retry=None,
        timeout=retrying.SOCKET_SECONDS,
    )
    try:
        return list(next(found.pages, ())), found.next_page_token
    except AttributeError as error:  # the library takes an answer without a body for a listing
        raise retrying.Damaged("a listing without content") from error


def delete(uri: str) -> None:
    """Removes an object; one already gone is no error."""
    try:
        _blob(uri).delete(retry=retrying.policy(), timeout=retrying.SOCKET_SECONDS)
    except api_exceptions.NotFound:
        return
