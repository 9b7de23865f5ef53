"""Captions: cleaned text, sidecars, and the ones inside image files, sound and hostile."""

import io
import json
import struct
import sys
import tracemalloc
import unicodedata
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from pillow_files import file_of

from transforms import captions
from transforms.items import ItemFailure, Pair

HARBOUR = "Der Hafen 港口 im Winter 🚢"


def xmp(body: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"{body}</rdf:RDF></x:xmpmeta>{' ' * 200}<?xpacket end='w'?>"
    ).encode()


def described(*items: str) -> bytes:
    inner = "".join(f"<rdf:li {item}</rdf:li>" for item in items)
    return xmp(f"<rdf:Description><dc:description><rdf:Alt>{inner}</rdf:Alt></dc:description></rdf:Description>")


XMP = described(f'xml:lang="x-default">{HARBOUR}')


def iptc(*datasets: tuple[int, int, bytes]) -> bytes:
    return b"".join(struct.pack(">BBBH", 0x1C, record, number, len(data)) + data for record, number, data in datasets)


def photoshop(data: bytes) -> bytes:
    resources = b"8BIM\x04\x0c\0\0" + struct.pack(">I", 3) + b"abc\0"  # an odd one before it
    return resources + b"8BIM\x04\x04\x03abc" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)


def exif(description: bytes, tag: int = 0x010E) -> bytes:
    value = description + b"\0"
    ifd = struct.pack(">HHHIII", 1, tag, 2, len(value), 26, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">I", 8) + ifd + value


def saved(format: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 16), (90, 120, 60)).save(out, format, **options)
    return out.getvalue()


def exif_of(description: str = "", comment: bytes = b"", title: str = "") -> Image.Exif:
    block = Image.Exif()
    if description:
        block[0x010E] = description
    if title:
        block[0x9C9B] = title.encode("utf-16-le") + b"\0\0"
    if comment:
        block.get_ifd(0x8769)[0x9286] = comment
    return block


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpeg(xmp: bytes | None = None, iptc: bytes | None = None, exif: bytes | None = None) -> bytes:
    plain = saved("JPEG")
    segments = segment(0xE1, exif) if exif else b""
    segments += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) if xmp else b""
    segments += segment(0xED, b"Photoshop 3.0\0" + photoshop(iptc)) if iptc else b""
    return plain[:2] + segments + plain[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, last: bool = False) -> bytes:
    plain = saved("PNG")
    at = len(plain) - 12 if last else 33  # before IEND, or behind IHDR
    return plain[:at] + b"".join(chunks) + plain[at:]


def itxt(keyword: bytes, text: bytes, compressed: bool = False) -> bytes:
    body = zlib.compress(text) if compressed else text
    return chunk(b"iTXt", keyword + b"\0" + bytes([compressed, 0]) + b"\0\0" + body)


def tiff(tags: dict[int, bytes | str | tuple[int, ...]]) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = 2 if isinstance(value, str) else 7 if isinstance(value, bytes) else 4
        directory[tag] = value
    return saved("TIFF", tiffinfo=directory)


def jp2(*boxes: tuple[bytes, bytes]) -> bytes:
    out = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I", 20) + b"ftypjp2 \0\0\0\0jp2 "
    return out + b"".join(struct.pack(">I4s", len(body) + 8, kind) + body for kind, body in boxes)


class TestClean:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("  a \t\r\n b\u3000c\u00a0 ", "a b c"),
            ("Cafe\u0301", "Caf\u00e9"),
            ("a\0b\x07\x7f\x9bc", "abc"),
            ("\ufeffstart", "start"),
            ("👩‍👩‍👧 港口", "👩‍👩‍👧 港口"),
            ("half \ud83d", "half \ufffd"),
            ("\0\n ", ""),
        ],
    )
    def test_examples(self, text, expected):
        assert captions.clean(text) == expected

    @given(st.text(st.characters(codec=None)))
    def test_is_settled_normal_and_one_line(self, text):
        cleaned = captions.clean(text)
        assert captions.clean(cleaned) == cleaned
        assert unicodedata.is_normalized("NFC", cleaned)
        assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in cleaned)
        assert cleaned == cleaned.strip()
        cleaned.encode()


class TestSidecar:
    @pytest.mark.parametrize(
        "data",
        [HARBOUR.encode(), HARBOUR.encode("utf-8-sig"), HARBOUR.encode("utf-16"), f"{HARBOUR}\r\n\0".encode()],
        ids=["utf-8", "utf-8-sig", "utf-16", "line end"],
    )
    def test_text(self, data):
        assert captions.sidecar_caption("a/b.txt", data) == HARBOUR

    def test_text_that_is_not_utf8(self):
        assert captions.sidecar_caption("b.TXT", "Fuß “Größe”".encode("cp1252")) == "Fuß “Größe”"
        assert captions.sidecar_caption("b.txt", b"Fu\xdf \x81") == "Fuß"

    @pytest.mark.parametrize("data", [b"", b" \r\n", b"\xef\xbb\xbf"])
    def test_nothing(self, data):
        assert captions.sidecar_caption("b.txt", data) is None

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"caption": HARBOUR, "title": "x"}, HARBOUR),
            ({"title": "T", "description": "D"}, "D"),
            ({"caption": 3, "description": None, "title": "T"}, "T"),
            ({"caption": " ", "title": "T"}, "T"),
            ({"caption": ["a"]}, None),
            (["caption"], None),
            ("caption", None),
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_json(self, fields, expected, encoding):
        data = json.dumps(fields, ensure_ascii=False).encode(encoding)
        assert captions.sidecar_caption("b.json", data) == expected

    @pytest.mark.parametrize(
        "data", [b"", b"{", b"[" * 100_000, b'{"caption": 1' + b"0" * 5000 + b"}", b"\xff\xfe\x00"]
    )
    def test_broken_json(self, data):
        assert captions.sidecar_caption("b.json", data) is None

    @given(st.binary())
    def test_never_raises(self, data):
        for name in ("a.txt", "a.json"):
            caption = captions.sidecar_caption(name, data)
            assert caption is None or caption == captions.clean(caption) != ""


class TestEmbedded:
    def test_none(self):
        for format in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000"):
            assert captions.embedded_caption(saved(format)) is None

    def test_iptc_and_exif_of_a_jpeg_2000(self) -> None:
        of_iptc = (b"uuid", bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38") + iptc((2, 120, b"by IPTC")))
        of_exif = (b"uuid", b"JpgTiffExif->JP2" + exif(b"by EXIF").removeprefix(b"Exif\0\0"))
        assert captions.embedded_caption(jp2(of_exif, of_iptc)) == "by IPTC"
        assert captions.embedded_caption(jp2((b"free", b""), of_exif)) == "by EXIF"

    @pytest.mark.parametrize("brand", [b"mif1", b"hevc", b"heim"])
    def test_a_heif_of_any_brand(self, brand: bytes) -> None:
        pytest.importorskip("pillow_heif").register_heif_opener()
        encoded = file_of(Image.new("RGB", (16, 16)), "HEIF", exif=exif(b"Harbour"))
        assert captions.embedded_caption(encoded[:8] + brand + encoded[12:]) == "Harbour"

    @pytest.mark.parametrize(
        "encoded",
        [
            jpeg(xmp=XMP),
            saved("WEBP", xmp=XMP),
            tiff({700: XMP}),
            png(itxt(b"XML:com.adobe.xmp", XMP)),
            png(itxt(b"XML:com.adobe.xmp", XMP, compressed=True)),
            png(itxt(b"XML:com.adobe.xmp", XMP), last=True),
            jp2((b"free", b"1234"), (b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP)),
        ],
        ids=["jpeg", "webp", "tiff", "png", "png zipped", "png, after the pixels", "jp2"],
    )
    def test_xmp(self, encoded):
        assert captions.embedded_caption(encoded) == HARBOUR

    @pytest.mark.parametrize(
        "packet",
        [
            described('xml:lang="en">Harbour', f'xml:lang="x-default">{HARBOUR}'),
            described(">", f'xml:lang="de">{HARBOUR}', 'xml:lang="en">Harbour'),
            described('xml:lang="x-default">  ', f'xml:lang="de">{HARBOUR}'),
            xmp(f"<rdf:Description><dc:description>\n{HARBOUR}\n</dc:description></rdf:Description>"),
            xmp(f'<rdf:Description dc:description="{HARBOUR}"/>'),
            xmp("<rdf:Description><dc:description/></rdf:Description>") and XMP + b"\0\0\0",
            XMP.replace(b"im Winter", b"im \0\x02Winter"),
            XMP.decode().encode("utf-16"),
        ],
    )
    def test_xmp_forms(self, packet):
        assert captions.embedded_caption(saved("WEBP", xmp=packet)) == HARBOUR

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_xmp_bombs_are_refused(self, encoding):
        bomb = (
            '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
            + XMP.decode().replace("Hafen", "&b;")
        )
        assert captions.embedded_caption(saved("WEBP", xmp=bomb.encode(encoding))) is None
        assert captions.embedded_caption(jpeg(xmp=bomb.encode(), exif=exif(b"Sound"))) == "Sound"

    @pytest.mark.parametrize("data", [HARBOUR.encode(), HARBOUR.encode() + b"\0"])
    def test_iptc_utf8(self, data):
        assert captions.embedded_caption(jpeg(iptc=iptc((1, 90, b"\x1b%G"), (2, 120, data)))) == HARBOUR
        assert captions.embedded_caption(jpeg(iptc=iptc((2, 0, b"\0\4"), (2, 120, data)))) == HARBOUR

    def test_iptc_latin1(self):
        assert captions.embedded_caption(jpeg(iptc=iptc((2, 120, "Straße".encode("latin-1"))))) == "Straße"

    def test_iptc_marked_utf8_keeps_what_can_be_read(self):
        assert captions.embedded_caption(jpeg(iptc=iptc((1, 90, b"\x1b%G"), (2, 120, b"a\xffb")))) == "a\ufffdb"

    def test_iptc_with_rubbish_behind(self):
        data = iptc((2, 5, b"title"), (2, 120, b"Harbour")) + b"rubbish that is not IIM"
        assert captions.embedded_caption(jpeg(iptc=data)) == "Harbour"

    def test_iptc_extended_length(self):
        data = struct.pack(">BBBHI", 0x1C, 2, 120, 0x8004, 7) + b"Harbour"
        assert captions.embedded_caption(jpeg(iptc=data)) == "Harbour"

    def test_iptc_in_tiff(self):
        data = iptc((2, 120, b"Harbour 1")) + b"\0\0"
        assert len(data) % 4 == 0
        plain = tiff({33723: data})
        as_numbers = plain.replace(struct.pack("<HHI", 33723, 7, 16), struct.pack("<HHI", 33723, 4, 4))
        turned = as_numbers.replace(data, struct.pack(">4I", *struct.unpack("<4I", data)))
        assert len({plain, as_numbers, turned}) == 3
        for encoded in (plain, as_numbers, turned):
            assert captions.embedded_caption(encoded) == "Harbour 1"
        assert captions.embedded_caption(tiff({34377: photoshop(data)})) == "Harbour 1"

    def test_imagemagick_profile_in_png(self):
        data = photoshop(iptc((2, 120, b"Harbour")))
        profile = b"\niptc\n%8d\n" % len(data) + data.hex().encode() + b"\n"
        zipped = chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(profile))
        assert captions.embedded_caption(png(zipped)) == "Harbour"

    @pytest.mark.parametrize(
        "make",
        [
            lambda e: jpeg(exif=e),
            lambda e: saved("PNG", exif=e),
            lambda e: saved("WEBP", exif=e),
            lambda e: png(chunk(b"eXIf", e[6:]), last=True),
        ],
    )
    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_exif(self, make, encoding):
        assert captions.embedded_caption(make(exif("Straße".encode(encoding)))) == "Straße"

    @pytest.mark.parametrize(
        ("comment", "expected"),
        [
            (b"ASCII\0\0\0Harbour", "Harbour"),
            (b"\0" * 8 + HARBOUR.encode(), HARBOUR),
            (b"UNICODE\0" + HARBOUR.encode("utf-16-le"), HARBOUR),
            (b"UNICODE\0" + HARBOUR.encode("utf-16-be"), HARBOUR),
            (b"UNICODE\0" + HARBOUR.encode("utf-16"), HARBOUR),
            (b"JIS\0\0\0\0\0" + "港".encode("iso2022_jp"), "港"),
            (b"ASCII\0\0\0        \0", None),
            (b"ASCII\0\0\0digital camera", None),
        ],
    )
    def test_exif_user_comment(self, comment, expected):
        assert captions.embedded_caption(saved("JPEG", exif=exif_of(comment=comment))) == expected

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
    def test_exif_order(self, format):
        everything = {"title": "title", "comment": b"ASCII\0\0\0comment", "description": "description"}
        if format == "TIFF":
            del everything["comment"]  # Pillow writes no EXIF directory into a TIFF
        for name in list(reversed(everything)):
            assert captions.embedded_caption(saved(format, exif=exif_of(**everything))) == name
            del everything[name]

    @pytest.mark.parametrize(
        ("escape", "encoding", "text"),
        [
            (b"\x1b%G", "utf-8", HARBOUR),
            (b"\x1b.A", "latin-1", "Ægir, Ærø"),
            (b"\x1b-B", "iso8859-2", "Łódź, Žižkov"),
            (b"\x1b.L", "iso8859-5", "Гавань"),
            (b"\x1b-F", "iso8859-7", "Λιμάνι"),
        ],
    )
    def test_iptc_character_sets(self, escape, encoding, text):
        data = iptc((1, 90, escape), (2, 120, text.encode(encoding)))
        assert captions.embedded_caption(jpeg(iptc=data)) == text

    def test_image_description_in_tiff(self):
        assert captions.embedded_caption(tiff({270: "Harbour"})) == "Harbour"
        assert captions.embedded_caption(tiff({270: "Stra##e"}).replace(b"##", "ß".encode())) == "Straße"

    @pytest.mark.parametrize(
        "text", ["OLYMPUS DIGITAL CAMERA         ", "SONY DSC", '{"shape": [2, 3]}', "ImageJ=1.53\nx=1"]
    )
    def test_what_machines_write_is_no_caption(self, text):
        assert captions.embedded_caption(jpeg(exif=exif(text.encode()))) is None
        assert captions.embedded_caption(tiff({270: text})) is None

    def test_order(self):
        i, e = iptc((2, 120, b"iptc")), exif(b"exif")
        assert captions.embedded_caption(jpeg(XMP, i, e)) == HARBOUR
        assert captions.embedded_caption(jpeg(None, i, e)) == "iptc"
        assert captions.embedded_caption(jpeg(described('xml:lang="en"> '), iptc((2, 120, b" ")), e)) == "exif"
        assert captions.embedded_caption(jpeg(b"<not xml", i[:-1] + b"\0", e)) == "ipt"
        assert captions.embedded_caption(jpeg(b"<not xml", b"\x1cnot iptc", e)) == "exif"

    def test_header_only(self):
        huge = bytearray(jpeg(xmp=XMP))
        at = huge.index(b"\xff\xc0")
        huge[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)  # 4 gigapixels, none of them there
        tracemalloc.start()
        try:
            assert captions.embedded_caption(bytes(huge[: huge.index(b"\xff\xda") + 16])) == HARBOUR
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()

    def test_a_length_that_lies_takes_no_memory(self):
        broken = bytearray(tiff({33723: (7,)}))
        at = broken.index(struct.pack("<HHI", 33723, 4, 1))
        broken[at + 8 : at + 12] = struct.pack("<I", 0xFFFFFFF0)  # a number, not a length of zeros
        tracemalloc.start()
        try:
            assert captions.embedded_caption(bytes(broken)) is None
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "encoded", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0+\0", b"no image at all"]
    )
    def test_stumps(self, encoded):
        assert captions.embedded_caption(encoded) is None

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_never_raises(self, data):
        encoded = bytearray(
            data.draw(
                st.sampled_from(
                    [
                        jpeg(XMP, iptc((2, 120, b"iptc")), exif(b"exif")),
                        tiff({700: XMP, 33723: iptc((2, 120, b"iptc")), 270: "exif"}),
                        png(itxt(b"XML:com.adobe.xmp", XMP, compressed=True)),
                        saved("WEBP", xmp=XMP, exif=exif(b"exif")),
                        jp2((b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP)),
                    ]
                )
            )
        )
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(encoded) - 1), st.integers(0, 255)), max_size=8)
        ):
            encoded[at] = value
        caption = captions.embedded_caption(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))
        assert caption is None or caption == captions.clean(caption) != ""

    def test_needs_no_defusedxml(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "defusedxml", None)
        assert captions.embedded_caption(saved("WEBP", xmp=XMP)) == HARBOUR


class TestCaptionOf:
    def test_order(self, tmp_path):
        encoded = jpeg(exif=exif(b"inside"))
        sidecar = tmp_path / "a.txt"
        sidecar.write_text("beside\n")
        pair = Pair("a.jpg", "a.jpg", sidecar=str(sidecar))
        assert captions.caption_of(Pair("a.jpg", "a.jpg", caption=" given ", sidecar="nowhere.txt"), encoded) == "given"
        assert captions.caption_of(pair, encoded) == "beside"
        sidecar.write_text("\n")
        assert captions.caption_of(pair, encoded) == "inside"
        assert captions.caption_of(Pair("a.jpg", "a.jpg", caption=""), encoded) == "inside"
        assert captions.caption_of(pair, b"") == ""

    def test_a_sidecar_that_is_gone_fails_the_item(self, tmp_path):
        with pytest.raises(ItemFailure, match=r"a\.txt"):
            captions.caption_of(Pair("a", "a", sidecar=str(tmp_path / "a.txt")), b"")

    def test_a_sidecar_that_would_fill_the_memory_fails_the_item(self, tmp_path):
        with (tmp_path / "a.txt").open("wb") as sparse:
            sparse.truncate(5 << 30)
        with pytest.raises(ItemFailure, match="more than 16,777,216") as failure:
            captions.caption_of(Pair("a", "a", sidecar=str(tmp_path / "a.txt")), b"")
        assert failure.value.error == "TooLarge"
