"""IIIF Presentation manifests, versions 2 and 3: the picture of each canvas, with labels as its caption.

See https://iiif.io/api/presentation/2.1/ and https://iiif.io/api/presentation/3.0/.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

_CONTEXT = "iiif.io/api/presentation"
_LANGUAGES = ("none", "@none", "en")


class IiifError(ValueError):
    """Not a IIIF Presentation manifest; the message says what it is instead."""


@dataclasses.dataclass(frozen=True)
class Canvas:
    """One canvas.

    Attributes:
      number: From 1, in the order of the manifest.
      image: Address of its picture as the manifest writes it; None if there is none.
      caption: Labels of manifest and canvas; "" for none.
      facts: The canvas's own address and the rights that the manifest states, as text.
    """

    number: int
    image: str | None
    caption: str
    facts: Mapping[str, str]


def canvases(data: bytes) -> Iterator[Canvas]:
    """The canvases of a manifest.

    Args:
      data: JSON.

    Raises:
      IiifError: It is no manifest.
    """
    try:
        manifest = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise IiifError(f"it is not JSON ({error})") from error
    try:
        yield from _canvases(manifest)
    except RecursionError as error:
        raise IiifError("it is nested too deep") from error


def _canvases(manifest: Any) -> Iterator[Canvas]:
    if not isinstance(manifest, dict) or _CONTEXT not in json.dumps(manifest.get("@context", "")):
        raise IiifError("it is JSON, but no IIIF Presentation manifest (its @context says nothing of that)")
    kind = str(manifest.get("type", manifest.get("@type", ""))).removeprefix("sc:")
    if kind != "Manifest":
        raise IiifError(f"it is a IIIF {kind or 'resource without a type'}; name the manifests themselves")
    version2 = "items" not in manifest
    listed = _canvases_2(manifest) if version2 else _objects(manifest.get("items"))
    title = _text(manifest.get("label"))
    rights = {
        name: text
        for name in ("rights", "license", "attribution", "requiredStatement")
        if (text := _text(_value(manifest.get(name))))
    }
    for number, canvas in enumerate(listed, 1):
        resource = _resource_2(canvas) if version2 else _resource_3(canvas)
        labels = dict.fromkeys(label for label in (title, _text(canvas.get("label"))) if label)
        facts = {f"iiif_{name}": text for name, text in rights.items()}
        if address := _address(canvas):
            facts["iiif_canvas"] = address
        yield Canvas(number, _image_address(resource), ", ".join(labels), facts)


def _objects(value: Any) -> list[dict[str, Any]]:
    """A list's objects; a lone object counts as a list of one."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def _address(thing: Mapping[str, Any]) -> str | None:
    value = thing.get("id", thing.get("@id"))
    return value if isinstance(value, str) and value else None


def _canvases_2(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    sequences = _objects(manifest.get("sequences"))
    return _objects(sequences[0].get("canvases")) if sequences else []


def _resource_2(canvas: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for annotation in _objects(canvas.get("images")):
        for resource in _objects(annotation.get("resource")):
            return next(iter(_objects(resource.get("default"))), resource)  # of an oa:Choice
    return None


def _resource_3(canvas: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for page in _objects(canvas.get("items")):
        for annotation in _objects(page.get("items")):
            for body in _objects(annotation.get("body")):
                choices = _objects(body.get("items")) if body.get("type") == "Choice" else [body]
                if picture := next((one for one in choices if one.get("type", "Image") == "Image"), None):
                    return picture
    return None


def _image_address(resource: Mapping[str, Any] | None) -> str | None:
    """The picture's own address, else the whole picture by its image service."""
    if resource is None:
        return None
    if address := _address(resource):
        return address
    for service in _objects(resource.get("service")):
        if address := _address(service):
            version3 = "3" in str(service.get("type", ""))
            return f"{address.rstrip('/')}/full/{'max' if version3 else 'full'}/0/default.jpg"
    return None


def _value(statement: Any) -> Any:
    """Of a `requiredStatement` its value, of anything else itself."""
    return statement.get("value", statement) if isinstance(statement, dict) else statement


def _text(label: Any) -> str:
    """Any form of a label: text, {"@value"}, lists of those, or texts by language (unmarked, English, any)."""
    if isinstance(label, str):
        return label.strip()
    if isinstance(label, list):
        return "; ".join(text for item in label if (text := _text(item)))
    if not isinstance(label, dict):
        return ""
    if "@value" in label:
        return _text(label["@value"])
    language = next((name for name in _LANGUAGES if name in label), next(iter(label), None))
    return "" if language is None else _text(label[language])
