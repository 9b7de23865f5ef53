"""Reads image/caption pairs: manifests (CSV, TSV, JSONL, Parquet), folders, globs, pictures, WebDataset shards, IIIF.

Only names (of shards, texts too) are read here, never pictures or sidecars: those are read in parallel, later.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import csv
import dataclasses
import gzip
import hashlib
import io
import itertools
import json
import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import apache_beam as beam
import pyarrow.parquet
from apache_beam import pvalue
from apache_beam.io.filesystem import BeamIOError

from transforms import captions, iiif, storage, storage_access, webdataset
from transforms.items import ItemError, ItemFailure, Pair, UsageError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
    *(".jp2", ".j2k", ".jpc", ".j2c", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"),
    *(".avif", ".heic", ".heif"),
)
"""What counts as a picture in a folder (in any case). A manifest may name files with any suffix, or none."""

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Manifests. All but Parquet may also be compressed (`.csv.gz`)."""

SHARD_SUFFIX = ".tar"
"""WebDataset shards, by themselves or in a folder or glob."""

IIIF_SUFFIX = ".json"
"""IIIF Presentation manifests, by themselves or in a glob that ends so. (In a folder `.json` is a sidecar.)"""

REFERENCE_SEPARATOR = "|"
"""Parts several references within one cell. (`;` is in too many file names, and European CSV parts cells with it.)"""

STAGE = "input"

_HALVES = re.compile("[\ud800-\udfff]")  # what bytes in a file name that are no UTF-8 turn into
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f]")
_COLUMNS = ("image", "id", "caption", "reference", "target")
_LINE_LIMIT = 16 << 20  # characters in one line or CSV record: more is not a manifest, and must not fill the memory
_RECORD_LIMIT = 4 << 20  # characters in a CSV record of several lines: more is an open quotation mark
_HEAD_ROWS = 1000  # how far to look for the first row that has an image
_PART_BYTES = 255 - 16  # a file name's limit, less a suffix of ours
_ID_BYTES = 900  # an object name's limit is 1024, with the output folder before the id
_BATCH_ROWS = 1024

# --- ids -------------------------------------------------------------------------------------------------------------


def check_id(id: str) -> None:
    """Makes sure that an output named after `id` stays within the output folder and can be written there.

    Raises:
      ItemFailure: `UnsafeId`, with the reason.
    """
    if reason := _unsafe(id):
        raise ItemFailure(
            "UnsafeId", f"id {_printable(id)!r} {reason}; rename it, or give it another id in a manifest's column `id`"
        )


def _unsafe(id: str) -> str | None:
    if not id:
        return "is empty"
    if _HALVES.search(id):
        return "is not valid UTF-8"
    if _CONTROLS.search(id):
        return "holds a control character"
    if "\\" in id:
        return "holds a backslash"
    if "://" in id:
        return "holds a URI scheme"
    if id.startswith("/"):
        return "is an absolute path"
    if re.match("[A-Za-z]:", id):
        return "begins with a drive letter"
    if len(id.encode()) > _ID_BYTES:
        return f"is longer than {_ID_BYTES} bytes"
    for part in id.split("/"):
        if part in {"", ".", ".."}:
            return f"has the part {part!r}"
        if len(part.encode()) > _PART_BYTES:
            return f"has a part longer than {_PART_BYTES} bytes"
    return None


class _Ids:
    """Finds ids that would share an output name, in some 100 bytes an id.

    `a.jpg` and `a.png` are two outputs. `a` gets its suffix from the picture, so it may meet any of `a.*`; and `a.jpg`,
    where that is a PNG, meets `a.jpg.png`: of ids that somebody gave, one must change. (Of ids that are paths the
    writer refuses `a.jpg` if it is one, see `outputs`.)
    """

    def __init__(self) -> None:
        self._suffixes: dict[str, int] = {}  # number of each suffix seen, "" too
        self._first: dict[int, int] = {}  # stem -> row of the first, and the number of its suffix
        self._more: dict[tuple[int, int], int] = {}  # stem and suffix -> row, of those after the first

    def claim(self, id: str, row: int, *, given: bool = False) -> int | None:
        """Takes `id` for `row`; or the row that has it, or one that would be written to the same place.

        Args:
          id: The id.
          row: Its row.
          given: Whether the manifest gives it, and it is not the picture's path.
        """
        stem, suffix = _stem(id)
        if given and suffix:
            longer = self._first.get(_key(id))
            near = self._row_of(stem) if longer is None else longer >> 16
            if near is not None:
                return near
        kind = self._suffixes.setdefault(suffix, len(self._suffixes))
        key = _key(stem)
        packed = self._first.setdefault(key, row << 16 | kind)
        first, first_kind = packed >> 16, packed & 0xFFFF
        bare = self._suffixes.get("")
        if first == row or first_kind == kind or bare in {kind, first_kind}:
            return None if first == row else first
        taken = self._more.setdefault((key, kind), row)
        return None if taken == row else taken

    def _row_of(self, id: str) -> int | None:
        """The row that took an id with a picture's suffix."""
        stem, suffix = _stem(id)
        key, kind = _key(stem), self._suffixes.get(suffix)
        first = self._first.get(key)
        if not suffix or first is None or kind is None:
            return None
        return first >> 16 if first & 0xFFFF == kind else self._more.get((key, kind))


def _stem(id: str) -> tuple[str, str]:
    """An id without its picture's suffix, and that suffix."""
    stem, suffix = posixpath.splitext(id)
    return (stem, suffix) if suffix.lower() in IMAGE_SUFFIXES else (id, "")


def _key(stem: str) -> int:
    return int.from_bytes(hashlib.blake2b(stem.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _printable(text: str) -> str:
    """Text that any UTF-8 sink takes: names of files may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _error(id: str, uri: str, failure: ItemFailure) -> ItemError:
    message = _printable(failure.message)
    return ItemError(_printable(id), _printable(uri), STAGE, failure.error, message, failure.retryable)


# --- where an input is, and what --------------------------------------------------------------------------------------


def suffix_of(uri: str) -> str:
    """The suffix that tells a file's type, in lower case; `.csv.gz` counts as `.csv`."""
    stem, suffix = posixpath.splitext(uri.lower())
    if suffix == ".gz":
        inner = posixpath.splitext(stem)[1]
        return inner if inner in MANIFEST_SUFFIXES and inner != ".parquet" else suffix
    return suffix


def kind_of(uri: str) -> str:
    """What an input is: `manifest`, `iiif`, `shard`, `picture`, `folder` or `glob`.

    What exists under the very name goes before its reading as a glob: a folder may be called `box [3]`.

    Raises:
      UsageError: It does not exist, or is of a type unfade does not read.
    """
    if not uri:
        raise UsageError("the input is empty; name a manifest, a folder, a glob or a picture")
    if not storage.is_remote(uri):
        if os.path.isdir(uri):
            return "folder"
        present = os.path.exists(uri)
        if present and not os.path.isfile(uri):  # it is read more than once, and a pipe would wait for its writer
            raise UsageError(f"{uri} is a pipe, socket or device; write what it gives to a file, and name that")
    elif uri.endswith("/") or uri.count("/") == 2:
        return "folder"
    elif "*" in uri:
        return "glob"
    else:
        present = storage.exists(uri)
    if present:
        suffix = suffix_of(uri)
        if suffix in MANIFEST_SUFFIXES:
            return "manifest"
        if suffix in (SHARD_SUFFIX, IIIF_SUFFIX):
            return "shard" if suffix == SHARD_SUFFIX else "iiif"
        if suffix in IMAGE_SUFFIXES:
            return "picture"
        raise UsageError(
            f"{uri}: {f'unknown file type {suffix}' if suffix else 'a file without a type'}; "
            f"give a manifest ({', '.join(MANIFEST_SUFFIXES)}), a folder, a glob, a picture, a WebDataset shard"
            f" ({SHARD_SUFFIX}) or a IIIF manifest ({IIIF_SUFFIX})"
        )
    if storage.is_remote(uri) and next(storage_access.list_objects(uri + "/"), None):
        return "folder"
    if _GLOB.search(uri):
        return "glob"
    raise UsageError(f"{uri} does not exist; check its spelling{'' if storage.is_remote(uri) else ' and the folder'}")


def root_of(uri: str) -> str | None:
    """The folder that the ids of an input are relative to, absolute; None if its manifest gives them itself."""
    kind = kind_of(uri)
    if kind == "manifest":
        if any("id" in row for _, row in itertools.islice(_rows(uri), _HEAD_ROWS) if not isinstance(row, ItemFailure)):
            return None
        return _Base(uri).root
    return _absolute(_root(uri, kind) or ".").rstrip("/") + "/"


def _root(uri: str, kind: str) -> str:
    """Of anything but a manifest, the folder that ids are relative to, as `uri` has it; "" is the current one."""
    return uri if kind == "folder" else _folder_of(_glob_parts(uri)[0] if kind == "glob" else uri)


def check_apart(uri: str, output: str) -> None:
    """Makes sure that what a run writes is not in the input of the next, and that nothing is written over its input.

    Only for folders, globs, shards and the like: a manifest names its pictures wherever they are (see
    `outputs.WriteRestored`).

    Raises:
      UsageError: The output lies where the input is listed, or the input where pictures are written.
    """
    kind = kind_of(uri)
    if kind == "manifest":
        return
    given = _root(uri, kind)
    root, place = _real(given or "."), _real(output)
    if root.startswith(written := place + "images/"):
        raise UsageError(
            f"{uri} lies in {written}, where restored pictures go: they would replace it; name another --output"
        )
    if kind in ("folder", "glob") and place.startswith(root):
        inner = place[len(root) :]
        if kind == "folder" or _reaches(uri[len(given) :], inner):
            raise UsageError(
                f"{output} lies in {uri}: what is written there would be read as input; name an --output beside it"
            )


def _real(folder: str) -> str:
    """A folder's place, links followed, with a slash at its end."""
    return (folder if storage.is_remote(folder) else os.path.realpath(folder)).rstrip("/") + "/"


def _reaches(pattern: str, folder: str) -> bool:
    """Whether a glob may match what a run writes into a folder (`images/...`), both from the same root."""
    parts, names = pattern.split("/"), [name for name in folder.split("/") if name]
    for part, name in zip(parts, names, strict=False):
        if "**" in part:
            return True
        if not _glob_regex(part).fullmatch(name):
            return False
    return len(parts) > len(names) + 1 or any("**" in part for part in parts)


def _glob_parts(uri: str) -> tuple[str, str]:
    """A glob before its first special character, and the rest."""
    at = _GLOB.search(uri).start()  # type: ignore[union-attr]
    return uri[:at], uri[at:]


def check_input(uri: str) -> None:
    """Makes sure that an input can be read and holds something, before any work.

    Raises:
      UsageError: One line: the item, the cause, the mend.
    """
    storage_access.check_access(uri)
    try:
        kind = kind_of(uri)
        if kind == "manifest":
            _check_manifest(uri)
        elif kind in ("iiif", "shard"):
            _check_one(uri, (read_iiif if kind == "iiif" else read_shard)(uri, _folder_of(uri)))
        elif kind != "picture":
            _check_pictures(uri, kind)
    except (UsageError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise UsageError(f"{uri} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check_manifest(uri: str) -> None:
    found: dict[str, None] = {}
    failure: ItemFailure | None = None
    for _, row in itertools.islice(_rows(uri), _HEAD_ROWS):
        if isinstance(row, ItemFailure):
            failure = failure or row
        elif "image" in row:
            return
        else:
            found.update(dict.fromkeys(row))
    if found:
        raise _no_image_column(uri, found)
    if failure:
        raise UsageError(f"{uri} has no readable row: {failure.message}")
    raise UsageError(f"{uri} is empty; give it one row a picture, with at least the column `image`")


def _check_one(uri: str, items: Iterator[Pair | ItemError]) -> None:
    unreadable = None
    for item in items:
        if isinstance(item, Pair):
            return
        unreadable = unreadable or item
    raise UsageError(f"{uri} names no picture{f': {unreadable.message}' if unreadable else ''}")


def _check_pictures(uri: str, kind: str) -> None:
    unreadable = None
    for item in _expanded(read_folder(uri)):
        if isinstance(item, Pair):
            return
        unreadable = unreadable or item
    if unreadable:
        raise UsageError(f"{uri} has no picture that can be read: {unreadable.message}")
    if kind == "glob":
        raise UsageError(f"{uri} matches no picture; check the pattern, and quote it against the shell")
    raise UsageError(f"{uri} holds no picture ({', '.join(IMAGE_SUFFIXES[:8])} ...); check the folder's name")


def _no_image_column(uri: str, columns: Iterable[str]) -> UsageError:
    columns = list(columns)
    if any(_NO_TEXT.search(name) for name in columns):
        return UsageError(
            f"{uri} is no text in UTF-8: a spreadsheet, Parquet, UTF-16 or UTF-32? Export it anew as CSV in UTF-8,"
            " or name it by what it is"
        )
    names = ", ".join(captions.clean(name)[:40] for name in itertools.islice(columns, 10))
    return UsageError(f"{uri} has no column `image`; rename the one that names the pictures (its columns: {names})")


def read(uri: str) -> Iterator[Pair | ItemError]:
    """The pairs of any input, and the rows and files that make none, in a fixed order.

    Raises:
      UsageError: The input as a whole cannot be read (see `check_input`).
    """
    yield from _expanded(_listed(uri))


@dataclasses.dataclass(frozen=True)
class Shard:
    """A WebDataset shard that a listing found, to be read by whichever worker.

    Attributes:
      uri: Where it is.
      root: What its ids are relative to.
    """

    uri: str
    root: str


def _listed(uri: str) -> Iterator[Pair | ItemError | Shard]:
    """As `read`, with shards not opened."""
    kind = kind_of(uri)
    if kind == "manifest":
        yield from read_manifest(uri)
    elif kind == "iiif":
        yield from read_iiif(uri, _folder_of(uri))
    elif kind == "shard":
        yield Shard(uri, _folder_of(uri))
    else:
        yield from read_folder(uri)


def _folder_of(uri: str) -> str:
    return uri[: uri.rfind("/") + 1]


def _expanded(items: Iterator[Pair | ItemError | Shard]) -> Iterator[Pair | ItemError]:
    for item in items:
        if isinstance(item, Shard):
            yield from read_shard(item.uri, item.root)
        else:
            yield item


# --- WebDataset shards, IIIF manifests --------------------------------------------------------------------------------


def read_shard(uri: str, root: str) -> Iterator[Pair | ItemError]:
    """The pairs of a WebDataset shard; see `webdataset`.

    Ids are the shard's path from `root` without its suffix, then the picture's name in it. A shard that is cut off
    gives what is whole, and an error.
    """
    stem = uri[len(root) :].removesuffix(SHARD_SUFFIX)
    ids = _Ids()
    try:
        with storage.open_binary(uri) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            for number, sample in enumerate(webdataset.samples(file, size, IMAGE_SUFFIXES), start=1):
                pair = _sample_pair(uri, stem, sample)
                if isinstance(pair, Pair) and (first := ids.claim(pair.id, number)) is not None:
                    failure = ItemFailure(
                        "DuplicateId",
                        f"sample {number} has the id {pair.id!r} of sample {first}, or would be written to the same "
                        "file; rename it in the shard",
                    )
                    pair = _error(pair.id, pair.uri, failure)
                yield pair
    except (webdataset.ShardError, OSError, BeamIOError) as error:
        retryable = not isinstance(error, webdataset.ShardError)
        yield _error("", uri, ItemFailure("BadShard", f"{uri} cannot be read to its end: {error}", retryable=retryable))


def _sample_pair(uri: str, stem: str, sample: webdataset.Sample) -> Pair | ItemError:
    id = f"{stem}/{sample.name.removeprefix('./')}"
    try:
        check_id(id)
    except ItemFailure as failure:
        return _error(id, uri, failure)
    caption = captions.decode(sample.caption) if isinstance(sample.caption, bytes) else sample.caption
    extra = {name: captions.replace_surrogates(text) for name, text in sample.fields.items() if name not in _COLUMNS}
    place = storage.part_uri(uri, sample.offset, sample.size)
    return Pair(id=id, uri=place, caption=captions.clean(caption or "") or None, extra=extra)


def read_iiif(uri: str, root: str) -> Iterator[Pair | ItemError]:
    """The pairs of a IIIF Presentation manifest, one a canvas; see `iiif`.

    Ids are the manifest's path from `root` without suffix, then the canvas's number (`album/0001`). Addresses of
    pictures may be `http(s)://`, `gs://`, paths, or relative to the manifest.
    """
    base = _Base(uri)
    stem = uri[len(root) :].removesuffix(IIIF_SUFFIX)
    try:
        data = storage.read_bytes(uri)
        for canvas in iiif.canvases(data):
            yield _canvas_pair(uri, stem, base, canvas)
    except iiif.IiifError as error:
        failure = ItemFailure("BadManifest", f"{uri} is no IIIF manifest: {error}")
        yield _error("", uri, failure)
    except ItemFailure as failure:
        yield _error("", uri, failure)


def _canvas_pair(uri: str, stem: str, base: _Base, canvas: iiif.Canvas) -> Pair | ItemError:
    id, where = f"{stem}/{canvas.number:04d}", f"{uri}:{canvas.number}"
    try:
        check_id(id)
        if canvas.image is None:
            raise ItemFailure("NoImage", f"canvas {canvas.number} has no picture")
        web = canvas.image.startswith(("http://", "https://"))
        image = canvas.image if web else base.resolve(canvas.image)
    except ItemFailure as failure:
        return _error(id, where, failure)
    extra = {name: captions.clean(text) for name, text in canvas.facts.items()}
    return Pair(id=id, uri=image, caption=captions.clean(canvas.caption) or None, extra=extra)


# --- manifests --------------------------------------------------------------------------------------------------------

_Row = Mapping[str, Any] | ItemFailure


def read_manifest(uri: str) -> Iterator[Pair | ItemError]:
    """The pairs of a manifest, by its suffix CSV, TSV, JSONL or Parquet; streamed, in its order.

    Columns: `image` (a URI, an absolute path, or relative to the manifest), and if there `id`, `caption`, `reference`
    (several: a list in JSONL and Parquet, or parted by `|`) and `target`. The others go to `Pair.extra` as text:
    numbers and lists as JSON, nulls left out, binary columns too.

    Text is UTF-8, with or without a byte-order mark, or UTF-16 with one. Bytes that are no UTF-8 are taken for
    Windows-1252 one by one, so that a wrongly saved caption costs no picture and no letter.

    A row that makes no pair becomes an error that names its line (its row in Parquet), and the others go on. Of rows
    with the same id, or ids that would be written to the same file, the first counts.
    """
    base = _Base(uri)
    ids = _Ids()
    for number, row in _rows(uri):
        where = f"{uri}:{number}"
        pair: Pair | None = None
        try:
            if isinstance(row, ItemFailure):
                raise row
            pair = _pair(row, base, number)
            check_id(pair.id)
            given = _cell(row, "id", number) is not None
            if (first := ids.claim(pair.id, number, given=given)) is not None:
                raise ItemFailure(
                    "DuplicateId",
                    f"id {pair.id!r} on line {number} is taken by line {first}, or would be written to the same file; "
                    "give one of them another id in column `id`",
                )
        except ItemFailure as failure:
            yield _error(pair.id if pair else "", pair.uri if pair and pair.uri else where, failure)
        else:
            yield pair


class _Base:
    """The folder of a manifest: what its relative names, and the default ids, are relative to."""

    def __init__(self, manifest: str) -> None:
        self.folder = manifest[: manifest.rfind("/") + 1]
        self.root = _absolute(self.folder or "./").rstrip("/") + "/"

    def resolve(self, name: str) -> str:
        """The URI of a file that the manifest names."""
        if _printable(name) != name or re.search("[\0-\x1f\x7f]", name):
            raise ItemFailure("UnsafeName", f"{_printable(name)!r} is no file name: it holds characters none may have")
        if name.startswith("file://"):
            return "/" + urllib.parse.unquote(name.removeprefix("file://").partition("/")[2])
        if storage.is_remote(name):
            if not storage_access.is_supported(name):
                raise ItemFailure(
                    "UnsupportedScheme", f"{name}: this storage is not supported; copy it to a folder or to gs://"
                )
            return name
        if name.startswith("/"):
            return name
        if not {".", ".."} & set(name.split("/")):
            return self.folder + name
        scheme, mark, folder = self.folder.rpartition("://")
        path = posixpath.normpath(folder + name)
        if mark and not path.startswith(folder.partition("/")[0] + "/"):
            raise ItemFailure("UnsafeName", f"{name} leads out of the bucket; write its URI in full")
        return scheme + mark + path

    def id_of(self, uri: str) -> str:
        """The path from the manifest's folder; of a picture elsewhere the whole path, less the scheme."""
        path = _absolute(uri)
        if path.startswith(self.root):
            return path[len(self.root) :]
        return path.partition("://")[2] if storage.is_remote(path) else path.lstrip("/")


def beside(manifest: str, name: str) -> str:
    """The URI of a file that a manifest names, in a column of no use to the others. Raises `ItemFailure`."""
    return _Base(manifest).resolve(name)


def _absolute(uri: str) -> str:
    return uri if storage.is_remote(uri) else os.path.abspath(uri)


def _pair(row: Mapping[str, Any], base: _Base, number: int) -> Pair:
    image = _cell(row, "image", number)
    if image is None:
        raise ItemFailure("NoImage", f"line {number} names no picture; fill in its column `image`")
    uri = base.resolve(image)
    target = _cell(row, "target", number)
    return Pair(
        id=_cell(row, "id", number) or base.id_of(uri),
        uri=uri,
        caption=_caption(row.get("caption"), number),
        references=tuple(base.resolve(name) for name in _references(row.get("reference"), number)),
        target=base.resolve(target) if target else None,
        extra={
            captions.replace_surrogates(name): text
            for name, value in row.items()
            if name not in _COLUMNS and (text := _extra(value)) is not None
        },
    )


def _cell(row: Mapping[str, Any], column: str, number: int) -> str | None:
    """A cell as text, None if there is nothing in it."""
    value = row.get(column)
    if isinstance(value, bytes):
        value = captions.decode(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise ItemFailure("BadValue", f"line {number}: column `{column}` holds a {type(value).__name__}; it wants text")
    return value.strip()


def _caption(value: Any, number: int) -> str | None:
    if isinstance(value, list | tuple):  # several captions of one picture: the first that says something
        return next((text for item in value if (text := _caption(item, number))), None)
    return captions.clean(_cell({"caption": value}, "caption", number) or "") or None


def _references(value: Any, number: int) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for item in value if (text := _cell({"reference": item}, "reference", number))]
    return [
        name.strip()
        for name in (_cell({"reference": value}, "reference", number) or "").split(REFERENCE_SEPARATOR)
        if name.strip()
    ]


def _extra(value: Any) -> str | None:
    if value is None or isinstance(value, bytes):  # pixels have no place in a shuffle
        return None
    if isinstance(value, str):
        return captions.replace_surrogates(value)
    if not isinstance(value, int | float | list | dict):
        return str(value)  # dates, decimals
    text = json.dumps(
        value, ensure_ascii=False, sort_keys=True, default=lambda v: None if isinstance(v, bytes) else str(v)
    )
    return captions.replace_surrogates(text)


def _rows(uri: str) -> Iterator[tuple[int, _Row]]:
    """Line (or row) number and cells of each row; a failure for one that cannot be parsed.

    Raises:
      UsageError: There is no header, or no `image` in it.
    """
    suffix = suffix_of(uri)
    if suffix == ".parquet":
        yield from _parquet_rows(uri)
    elif suffix in {".jsonl", ".ndjson"}:
        yield from _json_rows(uri)
    else:
        yield from _csv_rows(uri, "\t" if suffix == ".tsv" else None)


def _named(names: Iterable[str]) -> list[str]:
    """The columns' names: known ones in lower case, empty ones and repetitions with a number."""
    columns: list[str] = []
    for written in names:
        plain = written.strip()
        name = plain.lower() if plain.lower() in _COLUMNS else plain or f"column_{len(columns) + 1}"
        columns.append(name if name not in columns else f"{name}_{len(columns) + 1}")
    return columns


def _parquet_rows(uri: str) -> Iterator[tuple[int, _Row]]:
    with _open(uri) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowInvalid as error:
            raise UsageError(f"{uri} is not a sound Parquet file: {' '.join(str(error).split())}") from error
        fields = table.schema_arrow
        columns = dict(zip(fields.names, _named(fields.names), strict=True))
        if "image" not in columns.values():
            raise _no_image_column(uri, fields.names)
        wanted = [
            field.name
            for field in fields
            if columns[field.name] in _COLUMNS
            or not (pyarrow.types.is_binary(field.type) or _is_large_binary(field.type))
        ]
        number = 0
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, {columns[name]: value for name, value in row.items()}


def _is_large_binary(type: Any) -> bool:
    return bool(pyarrow.types.is_large_binary(type) or pyarrow.types.is_fixed_size_binary(type))


def _json_rows(uri: str) -> Iterator[tuple[int, _Row]]:
    with _lines(uri, newline="\n") as lines:
        while (line := lines.take()) is not None:
            if isinstance(line, ItemFailure):
                yield lines.number, line
            elif line.strip():
                yield lines.number, _json_row(line, lines.number)


def _json_row(line: str, number: int) -> _Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return ItemFailure("MalformedRow", f"line {number} is not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError) as error:  # a number too long, a nesting too deep
        return ItemFailure("MalformedRow", f"line {number} cannot be read: {error}")
    if not isinstance(row, dict):
        return ItemFailure("MalformedRow", f"line {number} is not a JSON object but a {type(row).__name__}")
    return dict(zip(_named(row), row.values(), strict=True))


def _csv_rows(uri: str, given: str | None) -> Iterator[tuple[int, _Row]]:
    # The limit is the process's; it must not fall below what another library may have set.
    csv.field_size_limit(max(csv.field_size_limit(), _LINE_LIMIT))
    columns: list[str] = []
    delimiter = given or ","
    with _lines(uri, newline="") as lines:
        while (line := lines.take()) is not None:
            lines.give_back([(lines.number, line)])
            if not (given or columns) and isinstance(line, str):
                delimiter = _delimiter(line)
            number, cells = _record(lines, delimiter, len(columns))
            if isinstance(cells, ItemFailure):
                if not columns:
                    raise UsageError(f"{uri} has no header: {cells.message}")
                yield number, cells
            elif not any(cell.strip() for cell in cells):
                continue  # says nothing: a blank line, or a row of commas as spreadsheets leave below the table
            elif not columns:
                columns = _named(cells)
                if "image" not in columns:
                    raise _no_image_column(uri, columns)
            else:
                yield number, dict(zip(columns, cells, strict=False))


def _delimiter(header: str) -> str:
    """What parts the cells of a CSV: the first of `,`, `;` and tab that gives a column `image`."""
    return next((d for d in ",;\t" if "image" in _named(_split(header, d, csv.QUOTE_MINIMAL))), ",")


def _split(line: str, delimiter: str, quoting: Any) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, quoting=quoting), [])


def _record(lines: _Lines, delimiter: str, width: int) -> tuple[int, list[str] | ItemFailure]:
    """The next record of a CSV, which may span lines, and the number of its first line.

    A quotation mark that is never closed would swallow the records after it without a word. So quotes are read
    strictly, and where that fails the first line is read for itself, with the quotes as they stand, and the rest again.

    Args:
      lines: Where to read; there is at least one line.
      delimiter: Parts the cells.
      width: Number of columns; 0 before the header is read.
    """
    first = lines.take()
    number = lines.number
    if not isinstance(first, str):
        return number, first or []
    taken: list[tuple[int, str]] = []

    def feed() -> Iterator[str]:
        yield first
        size = len(first)
        while isinstance(line := lines.take(), str):
            taken.append((lines.number, line))
            size += len(line)
            if size > _RECORD_LIMIT:
                raise csv.Error("a record is too long")
            yield line
        if line is not None:
            lines.give_back([(lines.number, line)])

    cells: list[str] | None = None
    with contextlib.suppress(csv.Error):
        cells = _trimmed(next(csv.reader(feed(), delimiter=delimiter, strict=True), []), width)
        if not width or len(cells) <= width:
            return number, cells
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        with contextlib.suppress(csv.Error):
            alone = _trimmed(_split(first.rstrip("\r\n"), delimiter, quoting), width)
            if '"' in first and len(alone) == (width or len(alone)):
                lines.give_back(taken)
                return number, alone
    if cells is None:
        lines.give_back(taken)
        return number, ItemFailure("MalformedRow", f'line {number}: its quotes (") do not match; close or double them')
    return number, ItemFailure(
        "MalformedRow",
        f"line {number} has {len(cells)} cells for {width} columns; quote the cells that hold {_NAMES[delimiter]}",
    )


_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Without the empty cells beyond the last column."""
    while width and len(cells) > width and not cells[-1].strip():
        cells.pop()
    return cells


class _Lines:
    """The lines of a text, numbered from 1; some may be given back, to be read again."""

    def __init__(self, text: io.TextIOBase) -> None:
        self.number = 0
        self._text = text
        self._read = 0
        self._back: collections.deque[tuple[int, str | ItemFailure]] = collections.deque()

    def take(self) -> str | ItemFailure | None:
        """The next line, a failure for one too long to be one, or None at the end."""
        if self._back:
            self.number, item = self._back.popleft()
            return item
        line = self._text.readline(_LINE_LIMIT)
        if not line:
            return None
        self._read += 1
        self.number = self._read
        if len(line) < _LINE_LIMIT or line.endswith(("\r", "\n")):
            return line
        while (rest := self._text.readline(_LINE_LIMIT)) and not rest.endswith(("\r", "\n")):
            pass
        return ItemFailure("MalformedRow", f"line {self.number} is longer than {_LINE_LIMIT} characters")

    def give_back(self, lines: Iterable[tuple[int, str | ItemFailure]]) -> None:
        """Puts numbered lines back before those not taken yet."""
        self._back.extendleft(reversed(list(lines)))


@contextlib.contextmanager
def _lines(uri: str, newline: str) -> Iterator[_Lines]:
    with _open(uri) as file:
        mark = file.read(2)
        file.seek(0)
        if mark in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
            yield _Lines(io.TextIOWrapper(file, "utf-16", "replace", newline))
        else:
            yield _Lines(io.TextIOWrapper(file, "utf-8-sig", _BYTEWISE, newline))


_BYTEWISE = "unfade-bytewise"


def _bytewise(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: reads what is no UTF-8 as Windows-1252 or Latin-1, and goes on in UTF-8."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return captions.decode_single(error.object[error.start : error.end]), error.end


codecs.register_error(_BYTEWISE, _bytewise)


@contextlib.contextmanager
def _open(uri: str) -> Iterator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open(stack.enter_context(storage.local_copy(uri)), "rb"))
        if uri.lower().endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        yield file


# --- folders and globs ------------------------------------------------------------------------------------------------

_GLOB = re.compile(r"[*?[]")
_SIDECARS = captions.SIDECAR_SUFFIXES


def read_folder(uri: str) -> Iterator[Pair | ItemError | Shard]:
    """The pictures and shards of a folder with all its subfolders, of a glob, or a single picture; in a fixed order.

    In a glob `*` and `?` stay within a folder, `**` goes across folders (`**/` may be none), `[...]` is a set of
    characters. Ids are paths from the folder, or from the folder before the glob's first special character.
    Only files with a suffix among `IMAGE_SUFFIXES` count, and shards (`.tar`); in a glob that ends in `.json`, IIIF
    manifests. Hidden files and folders (`.name`) do not.

    `Pair.sidecar` comes from the same listing: for `NAME.jpg` the first of `NAME.jpg.txt`, `NAME.jpg.json`, `NAME.txt`
    and `NAME.json`. It is not read here.

    Local symbolic links are followed, but a folder that is also reached otherwise is listed once.
    A folder that cannot be read becomes an error, and the others go on. So does a shard beside a folder that has its
    name and pictures of its own: it was unpacked there, most likely, and its ids are theirs.
    """
    kind = kind_of(uri)
    if kind == "picture":
        beside = (stem + suffix for stem in (uri, posixpath.splitext(uri)[0]) for suffix in _SIDECARS)
        yield _named_pair(
            uri[: uri.rfind("/") + 1], uri[uri.rfind("/") + 1 :], next(filter(storage.exists, beside), None)
        )
        return
    if kind == "glob":
        fixed, _ = _glob_parts(uri)
        root = fixed[: fixed.rfind("/") + 1]
        pattern = uri[len(root) :]
        depth = None if "**" in pattern else pattern.count("/")
        matches = _glob_regex(pattern).fullmatch
        start = root + fixed[len(root) :].partition(".")[0]  # a sidecar may differ from the dot on
    else:
        root = start = uri.rstrip("/") + "/"
        depth, matches = None, None
    listing = _remote_listing(root, start) if storage.is_remote(uri) else _local_listing(root, depth)
    shards: list[str] = []
    folders: set[str] = set()  # with shards or pictures, and those around them
    for paths in listing:
        if isinstance(paths, ItemError):
            yield paths
            continue
        there = len(shards)
        shards += sorted(
            path for path in paths if path.lower().endswith(SHARD_SUFFIX) and (matches is None or matches(path))
        )
        for path in shards[there:]:
            _add_folders(folders, path)
        if kind == "glob" and uri.endswith(IIIF_SUFFIX):
            for path in sorted(path for path in paths if matches is not None and matches(path)):
                yield from read_iiif(root + path, root)
        for path, sidecar in _with_sidecars(paths):
            if matches is None or matches(path):
                _add_folders(folders, path)
                yield _named_pair(root, path, None if sidecar is None else root + sidecar)
    for path in shards:
        if (stem := path.removesuffix(SHARD_SUFFIX)) in folders:
            failure = ItemFailure(
                "DuplicateId",
                f"the shard {root}{path} and the folder {root}{stem} both give ids that begin with {stem}/; take one of"
                " them away, rename it, or name one as --input",
            )
            yield _error(path, root + path, failure)
        else:
            yield Shard(root + path, root)


def _add_folders(folders: set[str], path: str) -> None:
    while (path := posixpath.dirname(path)) and path not in folders:
        folders.add(path)


def _named_pair(root: str, path: str, sidecar: str | None) -> Pair | ItemError:
    try:
        check_id(path)
    except ItemFailure as failure:
        return _error(path, root + path, failure)
    return Pair(id=path, uri=root + path, sidecar=sidecar)


def _glob_regex(pattern: str) -> re.Pattern[str]:
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]/]*\]|.", pattern, re.DOTALL)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def regex(token: str) -> str:
        if token in wild:
            return wild[token]
        if len(token) == 1:
            return re.escape(token)
        inside = token[1:-1]
        negated = inside[0] in "!^"
        members = inside[negated:].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
        members = members.replace("&&", r"&\&").replace("||", r"|\|").replace("~~", r"~\~").replace("^", r"\^")
        return f"(?!/)[{'^' if negated else ''}{members}]"

    return re.compile("".join(map(regex, tokens)), re.DOTALL)


def _with_sidecars(paths: list[str]) -> Iterator[tuple[str, str | None]]:
    """The pictures among `paths`, each with the sidecar it has among them."""
    sidecars: dict[str, str] = {}
    pictures = []
    for path in paths:
        stem, suffix = posixpath.splitext(path)
        if suffix.lower() in _SIDECARS:
            sidecars[stem + suffix.lower()] = path
        elif suffix.lower() in IMAGE_SUFFIXES:
            pictures.append(path)
    for path in pictures:
        stems = (path, posixpath.splitext(path)[0])
        names = (stem + suffix for stem in stems for suffix in _SIDECARS)
        yield path, next((sidecars[name] for name in names if name in sidecars), None)


def _local_listing(root: str, depth: int | None) -> Iterator[list[str] | ItemError]:
    """Paths from `root` of the files in each folder, or an error for one that cannot be read."""
    real_root = os.path.realpath(root or ".")
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        files, folders, links = list[str](), list[str](), list[str]()
        try:
            with os.scandir(root + folder or ".") as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = folder + entry.name
                    if not _is_dir(entry):
                        files.append(path)
                    elif depth is None or path.count("/") < depth:
                        links.append(path) if entry.is_symlink() else folders.append(path)
        except OSError as error:
            # A root that does not exist is no error: the glob matches nothing.
            if folder or not isinstance(error, FileNotFoundError):
                yield _unlisted(root + folder, error)
            continue
        yield sorted(files)
        # With a limit to the depth nothing goes in circles, and what a link leads to may be out of reach otherwise.
        folders += [path for path in sorted(links) if depth is not None or _is_new(root + path, real_root, seen)]
        waiting.extend(f"{path}/" for path in sorted(folders, reverse=True))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file, which cannot be read
        return False


def _is_new(link: str, root: str, seen: set[str]) -> bool:
    """False for a link to a folder that the walk lists in its own place, stands in, or has been linked to before."""
    real = os.path.realpath(link)
    around = os.path.commonpath([real, root])
    hidden = any(part.startswith(".") for part in os.path.relpath(real, root).split("/"))
    if around == real or (around == root and not hidden) or real in seen:
        return False
    seen.add(real)
    return True


def _unlisted(folder: str, error: OSError) -> ItemError:
    if isinstance(error, PermissionError):
        failure = ItemFailure(
            "PermissionDenied", f"folder {folder} may not be listed by this user; its pictures are left"
        )
    else:
        failure = ItemFailure("ReadFailed", f"folder {folder} cannot be listed: {error}", retryable=True)
    return _error("", folder, failure)


def _remote_listing(root: str, start: str) -> Iterator[list[str]]:
    """Paths from `root` of the objects that begin with `start`; a picture comes together with its sidecars.

    The listing is sorted, so all that begins with the same text up to a dot is in one piece: no more is ever held.
    """
    paths = (uri[len(root) :] for uri in storage_access.list_objects(start))
    for _, group in itertools.groupby(paths, key=lambda path: path.partition(".")[0]):
        shown = [path for path in group if not path.startswith(".") and "/." not in path and not path.endswith("/")]
        if shown:
            yield shown


# --- the transform ----------------------------------------------------------------------------------------------------


class PairsAndErrors(NamedTuple):
    """What `ReadPairs` gives: PCollections of `Pair` and of `ItemError`."""

    pairs: Any
    errors: Any


class ReadPairs(beam.PTransform):
    """The pairs of an input, dealt out evenly to the workers, and what in it makes no pair.

    Args:
      input: URI of a manifest, folder, glob or picture (see `read`); call `check_input` first.
      deal: False for a caller that deals the pairs out itself, after leaving some out.
      folds: Whether ids must differ in more than `storage.folds_names` tells of.
    """

    def __init__(self, input: str, deal: bool = True, folds: bool = False) -> None:
        super().__init__()
        self.input, self._deal, self._folds = input, deal, folds

    def expand(self, begin: pvalue.PBegin) -> PairsAndErrors:
        read_ = (
            begin
            | "Input" >> beam.Create([self.input])
            | "Read" >> beam.FlatMap(_tagged, self._folds).with_outputs("errors", "shards", main="pairs")
        )
        from_shards = read_.shards | "ReadShards" >> ReadShards(self._folds)
        pairs = (read_.pairs, from_shards.pairs) | "Pairs" >> beam.Flatten()
        errors = (read_.errors, from_shards.errors) | "Errors" >> beam.Flatten()
        # One worker reads the names; without this step it would restore all the pictures too.
        return PairsAndErrors(pairs | "Deal" >> beam.Reshuffle() if self._deal else pairs, errors)


class ReadShards(beam.PTransform):
    """PCollection[Shard] -> pairs and errors: each shard's headers and texts are read by one worker.

    Args:
      folds: See `ReadPairs`; of ids within a shard.
    """

    def __init__(self, folds: bool = False) -> None:
        super().__init__()
        self._folds = folds

    def expand(self, shards: pvalue.PCollection) -> PairsAndErrors:
        read_ = (
            shards
            | "DealShards" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(_tagged_shard, self._folds).with_outputs("errors", main="pairs")
        )
        return PairsAndErrors(read_.pairs, read_.errors)


def _tagged(uri: str, folds: bool) -> Iterable[Any]:
    for item in distinct(_listed(uri)) if folds else _listed(uri):
        yield _tag(item)


def _tagged_shard(shard: Shard, folds: bool) -> Iterable[Any]:
    items = read_shard(shard.uri, shard.root)
    for item in distinct(items) if folds else items:
        yield _tag(item)


def distinct(items: Iterator[Pair | ItemError | Shard]) -> Iterator[Pair | ItemError | Shard]:
    """The items; of pairs whose ids differ in case or in the form of accents alone, the first."""
    claims = _Ids()
    for row, item in enumerate(items, start=1):
        if isinstance(item, Pair) and claims.claim(_folded(item.id), row) is not None:
            failure = ItemFailure(
                "DuplicateId",
                f"id {item.id!r} is another's but for case or the form of its accents, and the output's disk takes "
                "them for one; rename it, or write to another disk",
            )
            yield _error(item.id, item.uri, failure)
        else:
            yield item


def _folded(id: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", id).casefold())


def _tag(item: Pair | ItemError | Shard) -> Any:
    if isinstance(item, ItemError):
        return pvalue.TaggedOutput("errors", item)
    return pvalue.TaggedOutput("shards", item) if isinstance(item, Shard) else item
