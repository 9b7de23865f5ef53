"""What a result is made from, in few characters: equal as long as nothing that it depends on has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from transforms import captions, listing, storage
from transforms.decisions import INPUT, REJECT, Decision
from transforms.items import Pair


def key_of(text: str) -> int:
    """64 bits that stand for an id or a name. Two of 2 million share theirs once in ten million collections."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def maker(model_sha256: str, settings: Mapping[str, Any]) -> str:
    """Stands for a model and the options that results depend on."""
    return _digest([model_sha256, dict(settings)])


def identity(pair: Pair, version: Callable[[str], str]) -> str:
    """Stands for all that a pair's result is made from: its caption and the contents of its files.

    Args:
      pair: The pair. Where the picture lies is not part of it, nor are carried columns.
      version: Tells one content of a file from another, e.g. `file_version`.
    """
    caption = captions.clean(pair.caption or "")
    beside = () if caption or pair.sidecar is None else (pair.sidecar,)
    relatives = [file_version(uri) for uri in (*pair.references, *([pair.target] if pair.target else []))]
    return _digest([caption, [version(uri) for uri in (pair.uri, *beside)], bool(pair.target), relatives])


def file_version(uri: str) -> str:
    """Tells one content of a file from another without reading it, as far as that can be.

    A local file by its size and time; one in a bucket or on the web by its name, as it can tell no more without a
    request.
    """
    path, mark, part = uri.partition("#bytes=")
    if storage.is_remote(uri):
        return uri
    return listing.local_version(path) + mark + part


def fingerprint(made_by: str, identity: str, decided: Decision | None = None) -> str:
    """What a row of metrics says of how it came about, in 32 hexadecimal digits.

    Args:
      made_by: See `maker`.
      identity: See `identity`.
      decided: What was decided in review. That a picture was accepted changes nothing in it.
    """
    changes = [] if decided is None else [decided.decision * (decided.decision in (REJECT, INPUT)), decided.caption]
    return _digest([made_by, identity, *filter(None, changes)])


def in_listing(uri: str) -> bool:
    """Whether a listing tells a file's version: true of objects in buckets, not of parts of them or of the web."""
    return storage.is_remote(uri) and not storage.is_part(uri) and not uri.startswith(("http://", "https://"))


def read_version(uri: str, data: bytes) -> str:
    """The version, as a listing tells it, of an object whose bytes are at hand."""
    return listed_version(key_of(listing.content_version(uri, data)))


def listed_version(key: int | None) -> str:
    """The version of an object by `key_of` what the listing tells of it, None where it is not in the listing."""
    return "missing" if key is None else f"{key:016x}"
