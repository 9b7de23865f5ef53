"""The record of a restoration in the restored file: XMP `xmpMM:History`; on request description and source type.

Existing XMP is kept: an event is added to its history, nothing else of it changes. See the XMP specification, part 1
(ISO 16684-1), for the packet, part 2 for `xmpMM:History` and `stEvt`, and IPTC's NewsCodes for digital source types.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from lxml import etree

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
MM = "http://ns.adobe.com/xap/1.0/mm/"
EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
META = "adobe:ns:meta/"
XML = "http://www.w3.org/XML/1998/namespace"

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MEASURED, AMPLIFIED, INVENTED = "measured", "amplified", "invented"

_PREFIXES = {"rdf": RDF, "dc": DC, "xmpMM": MM, "stEvt": EVENT, "Iptc4xmpExt": IPTC_EXT, "x": META}
_LIMIT = 4 << 20
_BEGIN = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_END = b'\n<?xpacket end="w"?>'

for _prefix, _uri in _PREFIXES.items():
    etree.register_namespace(_prefix, _uri)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What is recorded of a restoration. No time of day: the same input gives the same bytes.

    Attributes:
      software: e.g. `unfade 0.1.0`.
      model_sha256: Digest of the model.
      source_sha256: Digest of the file as it came.
      confidence: 0..1, or None.
      colours: Shares of the colours that were `measured`, `amplified` and `invented`, if the model says.
      notes: What could not be kept or had to be assumed.
      describe: Whether `dc:description` gets a suffix that says so.
      source_type: Whether IPTC `DigitalSourceType` is set.
    """

    software: str
    model_sha256: str
    source_sha256: str
    confidence: float | None = None
    colours: Mapping[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    describe: bool = False
    source_type: bool = False

    @property
    def origin(self) -> str | None:
        """Where most of the colours come from: `measured`, `amplified` or `invented`; None if the model is silent."""
        return max(self.colours, key=lambda name: self.colours[name]) if self.colours else None

    @property
    def parameters(self) -> str:
        """The event's text, `name=value` parted by `; `."""
        parts = [f"model_sha256={self.model_sha256}", f"source_sha256={self.source_sha256}"]
        if self.confidence is not None:
            parts.append(f"confidence={self.confidence:.3f}")
        if self.origin:
            parts.append(f"colours={self.origin}")
            parts += [f"{name}={share:.3f}" for name, share in self.colours.items()]
        parts += [f"note={note}" for note in self.notes]
        return "; ".join(parts)

    @property
    def suffix(self) -> str:
        """What is added to a description."""
        what = f" (colours mostly {self.origin})" if self.origin else ""
        return f"[Colours restored by {self.software}{what}]"

    @property
    def digital_source_type(self) -> str:
        """IPTC's term: enhanced by an algorithm, or in part made by a trained one."""
        invented = self.origin == INVENTED
        return SOURCE_TYPES + ("compositeWithTrainedAlgorithmicMedia" if invented else "algorithmicallyEnhanced")


class XmpError(ValueError):
    """The file's XMP is not XML; it is left as it is."""


def add(packet: bytes | None, stamp: Stamp, caption: str = "") -> bytes:
    """An XMP packet with the restoration recorded.

    Args:
      packet: The file's own packet; None or blank for none.
      stamp: What to record.
      caption: The file's own description, where it stands outside XMP; with `stamp.describe` the beginning of a
        `dc:description` that the packet did not have.

    Raises:
      XmpError: The packet cannot be read.
    """
    root = _parse(packet) if packet and packet.strip(b"\0 \r\n\t") else _empty()
    rdf = root if root.tag == f"{{{RDF}}}RDF" else root.find(f".//{{{RDF}}}RDF")
    if rdf is None:
        raise XmpError("the file's XMP has no RDF")
    _add_event(rdf, stamp)
    if stamp.describe:
        _add_description(rdf, stamp.suffix, caption)
    if stamp.source_type:
        _set(rdf, IPTC_EXT, "DigitalSourceType", stamp.digital_source_type)
    body = etree.tostring(root, encoding="utf-8")
    return _BEGIN + body + _END


def _empty() -> etree._Element:
    root = etree.Element(f"{{{META}}}xmpmeta", nsmap={"x": META})
    etree.SubElement(root, f"{{{RDF}}}RDF", nsmap={"rdf": RDF})
    return root


def _parse(packet: bytes) -> etree._Element:
    text = packet.strip(b"\0 \r\n\t")
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = text.decode("utf-16", "replace").encode()
    start, end = text.find(b"<"), text.rfind(b">")
    text = text[start : end + 1]
    if start < 0 or len(text) > _LIMIT or re.search(rb"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise XmpError("the file's XMP cannot be read")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(text, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise XmpError("the file's XMP cannot be read") from error


def _descriptions(rdf: etree._Element) -> list[etree._Element]:
    return rdf.findall(f"{{{RDF}}}Description")


def _node(rdf: etree._Element, uri: str, name: str) -> etree._Element | None:
    return next((found for one in _descriptions(rdf) if (found := one.find(f"{{{uri}}}{name}")) is not None), None)


def _holder(rdf: etree._Element, uri: str) -> etree._Element:
    """A description to put a property into, which knows the prefix of its namespace."""
    prefix = next(prefix for prefix, known in _PREFIXES.items() if known == uri)
    about = next((one.get(f"{{{RDF}}}about") or "" for one in _descriptions(rdf)), "")
    spaces = {"rdf": RDF, prefix: uri, **({"stEvt": EVENT} if uri == MM else {})}
    holder = etree.SubElement(rdf, f"{{{RDF}}}Description", nsmap=spaces)
    holder.set(f"{{{RDF}}}about", about)
    return holder


def _set(rdf: etree._Element, uri: str, name: str, value: str) -> None:
    key = f"{{{uri}}}{name}"
    for one in _descriptions(rdf):
        one.attrib.pop(key, None)
    node = _node(rdf, uri, name)
    if node is None:
        node = etree.SubElement(_holder(rdf, uri), key)
    for child in list(node):
        node.remove(child)
    node.attrib.clear()
    node.text = value


def _items(node: etree._Element, kind: str) -> etree._Element:
    """The list inside a property, made if it is not there."""
    for name in ("Seq", "Bag", "Alt"):
        found = node.find(f"{{{RDF}}}{name}")
        if found is not None:
            return found
    return etree.SubElement(node, f"{{{RDF}}}{kind}")


def _add_event(rdf: etree._Element, stamp: Stamp) -> None:
    node = _node(rdf, MM, "History")
    if node is None:
        node = etree.SubElement(_holder(rdf, MM), f"{{{MM}}}History")
    event = etree.SubElement(_items(node, "Seq"), f"{{{RDF}}}li")
    event.set(f"{{{RDF}}}parseType", "Resource")
    for name, value in (
        ("action", "edited"),
        ("softwareAgent", stamp.software),
        ("changed", "/pixels"),
        ("parameters", _printable(stamp.parameters)),
    ):
        etree.SubElement(event, f"{{{EVENT}}}{name}", nsmap={"stEvt": EVENT}).text = value


def _printable(text: str) -> str:
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _add_description(rdf: etree._Element, suffix: str, caption: str) -> None:
    key = f"{{{DC}}}description"
    short = next((value for one in _descriptions(rdf) if (value := one.attrib.pop(key, None))), None)
    node = _node(rdf, DC, "description")
    if node is None:
        node = etree.SubElement(_holder(rdf, DC), key)
    if len(node) == 0:  # plain text, which the specification does not allow and files have
        caption = (node.text or "").strip() or short or caption
        node.text = None
    items = _items(node, "Alt")
    if len(items) == 0:
        item = etree.SubElement(items, f"{{{RDF}}}li")
        item.set(f"{{{XML}}}lang", "x-default")
        item.text = _printable(caption)
    for item in items:
        text = (item.text or "").strip()
        if suffix not in text:
            item.text = f"{text} {suffix}".strip()
