"""ICC profiles made from their definitions, version 2 and 4: primaries and curves, grey, and CMYK as tables."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = (0.3127, 0.3290)
ADOBE = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3 = (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
PROPHOTO = (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)
SRGB = (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White and primaries, x and y of each."""


def srgb_curve(code: Any) -> Any:
    """Code 0..1 of sRGB as linear light."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def srgb_code(light: Any) -> Any:
    """Linear light as sRGB's code 0..1."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


def matrix_to_d50(points: tuple[float, ...]) -> Any:
    """Linear RGB of a space to XYZ under D50 (Bradford), [3, 3], from white and primaries by the textbook."""
    xyz = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(points[::2], points[1::2], strict=True)]
    white, primaries = xyz[0], np.stack(xyz[1:], axis=1)
    matrix = primaries * np.linalg.solve(primaries, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    adapted = np.linalg.solve(bradford, np.diag((bradford @ D50) / (bradford @ white)) @ bradford)
    return adapted @ matrix


def rgb_v4(points: tuple[float, ...], gamma: float | None) -> bytes:
    """As littleCMS makes it, version 4; gamma None: sRGB's curve."""
    curve: dict[str, Any] = {"gamma": gamma}
    if gamma is None:
        curve = {"transferfunction": srgb_curve(np.linspace(0, 1, 4096)).astype(np.float32)}
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=points[:2], primaries=points[2:], **curve))


def _s15(values: Any) -> bytes:
    return struct.pack(f">{np.size(values)}i", *(round(float(value) * 65536) for value in np.ravel(values)))


def _text(text: str) -> bytes:
    return b"text\0\0\0\0" + text.encode() + b"\0"


def _description(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(data)) + data + bytes(4 + 4 + 2 + 1 + 67)


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 profile of its tags (ICC.1:2001-04, 6.1 to 6.3)."""
    tags = {
        b"desc": _description("made for a test"),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ \0\0\0\0" + _s15(D50),
        **tags,
    }
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = at + len(data)
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"\0\0\0\0", 0x02400000, kind, space, pcs, bytes(12), b"acsp")
    header += bytes(28) + _s15(D50) + bytes(48)
    return header.ljust(128, b"\0")[:128] + struct.pack(">I", len(tags)) + table + data


def _curve(gamma: float | None) -> bytes:
    """A number, or, for None, sRGB's curve in 1,024 samples, as the profiles have it that most cameras wrote."""
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    samples = np.rint(srgb_curve(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(samples)) + samples.tobytes()


def version_4(profile: bytes) -> bytes:
    """The same, said to be of version 4: number and tables mean the same there."""
    return profile[:8] + b"\x04\x20\0\0" + profile[12:]


def rgb_v2(points: tuple[float, ...], gamma: float | None) -> bytes:
    """Version 2; gamma None: sRGB's curve."""
    columns = matrix_to_d50(points).T
    tags = {name: b"XYZ \0\0\0\0" + _s15(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return _profile(
        b"mntr", b"RGB ", b"XYZ ", {**tags, **{name: _curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}}
    )


def grey_v2(gamma: float) -> bytes:
    """Version 2, grey."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


# --- CMYK: inks that darken less than ideal ones, as a press has them -------------------------------------------------

_INKS = np.array(
    [[0.05, 0.5, 0.7], [0.6, 0.08, 0.3], [0.9, 0.75, 0.08], [0.12, 0.11, 0.1]]
)  # linear light through each


def cmyk_light(inks: Any) -> Any:
    """Linear sRGB [..., 3] of inks [..., 4] in 0..1: each lets light through by its share."""
    through = 1 - inks[..., None] * (1 - _INKS)
    return through.prod(axis=-2)


def _lab(light: Any) -> Any:
    xyz = light @ matrix_to_d50(SRGB).T / D50
    root = np.where(xyz > 216 / 24389, np.cbrt(np.maximum(xyz, 0)), xyz * 841 / 108 + 4 / 29)
    return np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], axis=-1
    )


def _light(lab: Any) -> Any:
    y = (lab[..., 0] + 16) / 116
    root = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    xyz = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 108 / 841) * D50
    return xyz @ np.linalg.inv(matrix_to_d50(SRGB)).T


def _inks_of(light: Any) -> Any:
    """Inks for linear sRGB, by Newton's steps from none; black takes half of what is common to the three."""
    target = light.clip(0.003, 1)
    inks = np.zeros((*light.shape[:-1], 4))
    for _ in range(12):
        inks[..., 3] = 0.5 * inks[..., :3].min(axis=-1)
        error = np.log(cmyk_light(inks)) - np.log(target)
        slopes = -(1 - _INKS[:3]) / (1 - inks[..., :3, None] * (1 - _INKS[:3]))
        inks[..., :3] = (inks[..., :3] - np.linalg.solve(np.swapaxes(slopes, -1, -2), error[..., None])[..., 0]).clip(
            0, 1
        )
    return inks


def _mft2(inputs: int, outputs: int, grid: int, table: Any) -> bytes:
    head = b"mft2\0\0\0\0" + struct.pack(">BBBx", inputs, outputs, grid) + _s15(np.eye(3)) + struct.pack(">HH", 2, 2)
    ends = struct.pack(">HH", 0, 65535)
    return head + ends * inputs + np.rint(table.clip(0, 65535)).astype(">u2").tobytes() + ends * outputs


def cmyk_v2() -> bytes:
    """A press of our own as tables, version 2."""
    axis = np.linspace(0, 1, 9)
    inks = np.stack(np.meshgrid(*[axis] * 4, indexing="ij"), axis=-1)
    lab = _lab(cmyk_light(inks))
    there = np.stack([lab[..., 0] * 652.80, (lab[..., 1] + 128) * 256, (lab[..., 2] + 128) * 256], axis=-1)
    axis = np.linspace(0, 65535, 17)
    grid = np.stack(np.meshgrid(axis / 652.80, axis / 256 - 128, axis / 256 - 128, indexing="ij"), axis=-1)
    back = _inks_of(_light(grid)) * 65535
    a2b, b2a = _mft2(4, 3, 9, there), _mft2(3, 4, 17, back)
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": a2b, b"A2B1": a2b, b"B2A0": b2a, b"B2A1": b2a})
