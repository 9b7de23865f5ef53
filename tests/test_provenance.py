"""The record of a restoration: added to whatever XMP there is, and nothing else of it changes."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from PIL import Image
from pillow_files import exif_block, file_of, gradient

from transforms import captions, codecs, containers, provenance
from transforms.provenance import DC, EVENT, MM, RDF, Stamp

STAMP = Stamp(
    software="unfade 1.2.3",
    model_sha256="m" * 64,
    source_sha256="s" * 64,
    confidence=0.875,
    colours={"measured": 0.7, "amplified": 0.2, "invented": 0.1},
)
SPACES = {"rdf": RDF, "dc": DC, "mm": MM, "ev": EVENT, "ext": provenance.IPTC_EXT}


def packet(body: str, attributes: str = "") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="{DC}" xmlns:xmpMM="{MM}" xmlns:stEvt="{EVENT}"'
        f' xmlns:mine="urn:archive"><rdf:Description rdf:about="" {attributes}>{body}</rdf:Description></rdf:RDF>'
        f"</x:xmpmeta>{' ' * 300}<?xpacket end='w'?>"
    ).encode()


def parsed(data: bytes) -> Any:
    return etree.fromstring(data[data.index(b"<x:") : data.rindex(b"<?xpacket end")])


def events(data: bytes) -> list[dict[str, str]]:
    found = parsed(data).xpath("//mm:History/rdf:Seq/rdf:li", namespaces=SPACES)
    return [{etree.QName(child).localname: child.text for child in item} for item in found]


class TestHistory:
    @pytest.mark.parametrize("before", [None, b"", b" \0\n", packet("")])
    def test_from_nothing(self, before: bytes | None) -> None:
        [event] = events(provenance.add(before, STAMP))
        assert event == {
            "action": "edited",
            "softwareAgent": "unfade 1.2.3",
            "changed": "/pixels",
            "parameters": f"model_sha256={'m' * 64}; source_sha256={'s' * 64}; confidence=0.875; colours=measured; "
            "measured=0.700; amplified=0.200; invented=0.100",
        }

    def test_an_event_more(self) -> None:
        old = (
            '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="created" stEvt:when="1999-01-01"/></rdf:Seq></xmpMM:History>'
            "<mine:shelf>B 12 &amp; 港</mine:shelf>"
        )
        first = provenance.add(packet(old, 'mine:box="7"'), STAMP)
        second = provenance.add(first, STAMP)
        assert [len(events(data)) for data in (first, second)] == [2, 3]
        assert b'stEvt:action="created"' in second
        assert "<mine:shelf>B 12 &amp; 港</mine:shelf>".encode() in second
        assert b'mine:box="7"' in second

    def test_notes_and_odd_characters(self) -> None:
        [event] = events(provenance.add(None, Stamp("u <&> \u00e6", "m", "s", notes=("cut off", "a\0b\ud800"))))
        assert event["softwareAgent"] == "u <&> \u00e6"
        assert event["parameters"].endswith("note=cut off; note=a\ufffdb\ufffd")

    @pytest.mark.parametrize(
        "bad",
        [
            b"no xml",
            b"<x",
            b"<a/>",
            b'<!DOCTYPE x [<!ENTITY a "b">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a;</x:xmpmeta>',
            packet("").replace(b"</rdf:RDF>", b""),
        ],
    )
    def test_what_cannot_be_read_is_told(self, bad: bytes) -> None:
        with pytest.raises(provenance.XmpError):
            provenance.add(bad, STAMP)

    @given(st.binary(max_size=200))
    def test_never_another_error(self, data: bytes) -> None:
        with contextlib.suppress(provenance.XmpError):
            provenance.add(packet("")[:150] + data + packet("")[150:], STAMP)

    def test_the_same_bytes_again(self) -> None:
        assert provenance.add(packet(""), STAMP) == provenance.add(packet(""), STAMP)


class TestDescription:
    SUFFIX = "[Colours restored by unfade 1.2.3 (colours mostly measured)]"

    @pytest.mark.parametrize(
        ("before", "texts"),
        [
            (None, [f"a caption {SUFFIX}"]),
            (
                packet(
                    '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">Harbour</rdf:li><rdf:li xml:lang="de">Hafen'
                    "</rdf:li></rdf:Alt></dc:description>"
                ),
                [f"Harbour {SUFFIX}", f"Hafen {SUFFIX}"],
            ),
            (packet("", 'dc:description="Harbour"'), [f"Harbour {SUFFIX}"]),
            (packet("<dc:description>Harbour</dc:description>"), [f"Harbour {SUFFIX}"]),
        ],
    )
    def test_suffix(self, before: bytes | None, texts: list[str]) -> None:
        stamp = Stamp("unfade 1.2.3", "m", "s", colours={"measured": 1.0}, describe=True)
        for data in (once := provenance.add(before, stamp, "a caption"), provenance.add(once, stamp, "a caption")):
            found = parsed(data).xpath("//dc:description/rdf:Alt/rdf:li", namespaces=SPACES)
            assert [item.text for item in found] == texts  # and not twice
            assert captions._xmp_caption(data) == texts[0]

    def test_only_on_request(self) -> None:
        before = packet("", 'dc:description="Harbour"')
        assert captions._xmp_caption(provenance.add(before, STAMP)) == "Harbour"
        assert b"DigitalSourceType" not in provenance.add(before, STAMP)

    @pytest.mark.parametrize(
        ("colours", "term"),
        [
            ({"measured": 0.9, "invented": 0.1}, "algorithmicallyEnhanced"),
            ({"measured": 0.1, "invented": 0.9}, "compositeWithTrainedAlgorithmicMedia"),
            ({}, "algorithmicallyEnhanced"),
        ],
    )
    def test_source_type(self, colours: dict[str, float], term: str) -> None:
        stamp = Stamp("u", "m", "s", colours=colours, source_type=True)
        old = packet(
            "", 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="x"'
        )
        for before in (None, old):
            [found] = parsed(provenance.add(before, stamp)).xpath("//ext:DigitalSourceType", namespaces=SPACES)
            assert found.text == f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"


class TestInFiles:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "JPEG2000", "AVIF", "HEIF"])
    def test_history(self, file_format: str, tmp_path: pathlib.Path) -> None:
        encoded = file_of(Image.fromarray(gradient()), file_format)
        picture = codecs.decode(encoded)
        once = codecs.restored_file(picture, picture.pixels, STAMP)
        again = codecs.decode(once.data)
        twice = codecs.restored_file(again, again.pixels, STAMP)
        for number, data in enumerate((once.data, twice.data), 1):
            xmp = codecs._xmp_of(codecs.decode(data))
            assert xmp is not None
            assert len(events(xmp)) == number
        if shutil.which("exiftool"):
            path = tmp_path / f"x{codecs.EXTENSIONS[file_format]}"
            path.write_bytes(twice.data)
            done = subprocess.run(["exiftool", "-j", "-struct", "-History", path], capture_output=True, check=True)
            assert [event["SoftwareAgent"] for event in json.loads(done.stdout)[0]["History"]] == ["unfade 1.2.3"] * 2

    def test_without_a_stamp_nothing_is_added(self) -> None:
        for file_format in ("JPEG", "PNG", "TIFF", "WEBP", "JPEG2000"):
            picture = codecs.decode(file_of(Image.fromarray(gradient()), file_format))
            assert codecs._xmp_of(codecs.decode(codecs.encode(picture, picture.pixels))) is None

    def test_broken_xmp_stays_and_is_told(self) -> None:
        picture = codecs.decode(file_of(Image.fromarray(gradient()), "JPEG", xmp=b"<broken"))
        written = codecs.restored_file(picture, picture.pixels, STAMP)
        assert containers.jpeg_xmp(written.data) == b"<broken"
        assert written.notes == ("no history was written: the file's XMP cannot be read",)

    def test_xmp_too_long_for_a_jpeg(self) -> None:
        long = packet(f"<mine:text>{'x' * 64_600}</mine:text>")
        picture = codecs.decode(file_of(Image.fromarray(gradient()), "JPEG", xmp=long))
        written = codecs.restored_file(picture, picture.pixels, STAMP)
        assert containers.jpeg_xmp(written.data) == long
        assert "too long" in written.notes[0]

    def test_maker_notes_stay_byte_for_byte(self) -> None:
        notes = bytes(np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8))
        exif = exif_block(orientation=6)
        exif.get_ifd(0x8769)[0x927C] = notes
        exif.get_ifd(0x8825)[0x0002] = (32.0, 45.0, 0.0)
        for file_format in ("JPEG", "PNG", "WEBP"):
            encoded = file_of(Image.fromarray(gradient()), file_format, exif=exif)
            picture = codecs.decode(encoded)
            written = Image.open(io.BytesIO(codecs.restored_file(picture, picture.pixels, STAMP).data))
            assert written.info["exif"] == Image.open(io.BytesIO(encoded)).info["exif"]
            assert notes in written.info["exif"]
            assert written.size == (64, 48)  # stored as it was: the tag still turns it
