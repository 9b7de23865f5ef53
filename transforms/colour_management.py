"""Colours of a file <-> the working space, sRGB, through the file's profile, by littleCMS.

What leaves the working space loses nothing that the model did not touch: the file's own samples move by the difference
that the model made, `own + back(restored) - back(working)`. So colours outside sRGB, and what rounding takes, come back
as they were, whatever the profile, and are clipped once, at the end.

littleCMS runs unoptimised: its optimised 16-bit transforms are off by up to 7,000 of 65,535 in dark colours of wide
spaces. Where a profile is three curves and a matrix (nearly every RGB profile), its curves and matrix are read out by
littleCMS, applied by table, and held against littleCMS on a probe: the same numbers, 20 times as fast.

Relative colorimetric intent, with black point compensation, as image editors do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import ImageCms

Array = npt.NDArray[Any]

SRGB: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
"""The working space's profile."""

_LAB: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
_XYZ: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()

_SPACES = {b"RGB ": "RGB", b"GRAY": "GRAY", b"CMYK": "CMYK", b"Lab ": "LAB"}
_CHANNELS = {"GRAY": 1, "RGB": 3, "CMYK": 4, "LAB": 3}

_TOP = 65535
_CODE = 257  # of 8 bits, in 16
_ROOTS = 1 << 18  # entries of an encoding table, by the square root of linear light
_STRIP = 1 << 19  # pixels converted at a time
_TOLERANCE = 24  # of 65535 (a tenth of a code of 8 bits): what a table may be off from littleCMS
_SAME = (2 * _CODE, _CODE / 8)  # largest and mean difference of a profile that is sRGB: makers round it in many ways
_FADE = (
    8192  # change, of 65535, from which on a CMYK pixel takes its black from the profile and no longer from the scan
)

_FLAGS = imagecodecs.CMS.FLAGS.NOOPTIMIZE | imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION
_INTENT = imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC


class ProfileError(ValueError):
    """A profile that cannot be used for these samples; the message says why."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Between a file's colours and the working space.

    Attributes:
      to_working: uint16 [N, C] (8-bit samples x 257) -> uint16 [N, 3] sRGB.
      from_working: uint16 [N, 3] sRGB -> uint16 [N, C].
      identity: The file's colours are sRGB already, but for its maker's rounding.
      fades: Whether one colour has many representations (CMYK), of which the scan's own is kept near the original.
    """

    to_working: Callable[[Array], Array]
    from_working: Callable[[Array], Array]
    identity: bool = False
    fades: bool = False


def profile_space(profile: bytes) -> str | None:
    """`RGB`, `GRAY`, `CMYK` or `LAB` by a profile's header; None for others and for what is no profile."""
    return _SPACES.get(profile[16:20]) if profile[36:40] == b"acsp" else None


def _cms(values: Array, profile: bytes, out_profile: bytes, space: str, out_space: str, **more: Any) -> Array:
    values = values[:, 0] if space == "GRAY" else values
    more = {"intent": _INTENT, "flags": _FLAGS, **more}
    converted: Array = imagecodecs.cms_transform(
        np.ascontiguousarray(values[None]),
        profile,
        out_profile,
        colorspace=space.lower(),
        outcolorspace=out_space.lower(),
        **more,
    )
    return converted[0, ..., None] if out_space == "GRAY" else converted[0]


@functools.lru_cache(maxsize=32)
def conversion(space: str, profile: bytes | None) -> Conversion:
    """The conversion for samples of a colour space.

    Args:
      space: `GRAY`, `RGB`, `CMYK` or `LAB`.
      profile: The embedded ICC profile. None: grey and RGB are sRGB; CMYK is mixed as R = (1 - C) (1 - K); CIELAB is
        its own definition (D50).

    Raises:
      ProfileError: The profile is broken, or is not for such samples.
    """
    if profile is None:
        if space == "CMYK":
            return Conversion(_plain_cmyk_to_rgb, _rgb_to_plain_cmyk, fades=True)
        if space != "LAB":
            return Conversion(_same, _same, identity=True)
        profile = _LAB
    declared = profile_space(profile)
    if declared is None:
        raise ProfileError("the embedded profile is broken")
    try:
        if space == "GRAY" and declared in ("GRAY", "RGB"):  # scanners put an RGB profile into grey files
            return _grey(profile, declared)
        if declared != space:
            raise ProfileError(f"the embedded profile is for {declared}, the picture is {space}")
        if space == "RGB":
            return _rgb(profile)
        return _by_cms(profile, space)
    except (imagecodecs.CmsError, ValueError, np.linalg.LinAlgError) as error:
        if isinstance(error, ProfileError):
            raise
        raise ProfileError("the embedded profile is broken") from error


def _same(values: Array) -> Array:
    return values


def _plain_cmyk_to_rgb(values: Array) -> Array:
    light = np.float32(1) - values.astype(np.float32) / _TOP
    return np.rint(light[:, :3] * light[:, 3:] * _TOP).astype(np.uint16)


def _rgb_to_plain_cmyk(values: Array) -> Array:
    light = values.astype(np.float32) / _TOP
    white = light.max(axis=1, keepdims=True)
    inks = 1 - light / np.maximum(white, np.float32(1 / _TOP))
    return np.rint(np.concatenate([inks, 1 - white], axis=1).clip(0, 1) * _TOP).astype(np.uint16)


def _by_cms(profile: bytes, space: str) -> Conversion:
    made = Conversion(
        lambda values: _cms(values, profile, SRGB, space, "RGB"),
        lambda values: _cms(values, SRGB, profile, "RGB", space),
        fades=space == "CMYK",
    )
    made.to_working(np.zeros((1, _CHANNELS[space]), np.uint16))  # a profile may lack either direction
    made.from_working(np.zeros((1, 3), np.uint16))
    return made


def _is_identity(values: Array, working: Array) -> bool:
    difference = np.abs(values.astype(int) - working)
    return bool(difference.max() <= _SAME[0] and difference.mean() <= _SAME[1])


def _grey(profile: bytes, declared: str) -> Conversion:
    channels = _CHANNELS[declared]
    ramp = np.arange(_TOP + 1, dtype=np.uint16)[:, None]
    there = _cms(ramp.repeat(channels, axis=1), profile, SRGB, declared, "RGB")[:, 1]
    back = _cms(ramp.repeat(3, axis=1), SRGB, profile, "RGB", declared)[:, channels // 2]
    return Conversion(
        lambda values: np.repeat(there.take(values), 3, axis=1),
        lambda pixels: back.take(pixels[:, 1:2]),
        identity=_is_identity(ramp[:, 0], there),
    )


def _probe() -> Array:
    rng = np.random.default_rng(0)
    axis = np.linspace(0, _TOP, 9).round().astype(np.uint16)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    return np.concatenate([grid, rng.integers(0, _TOP + 1, (2048, 3)).astype(np.uint16)])


def _rgb(profile: bytes) -> Conversion:
    exact = _by_cms(profile, "RGB")
    probe = _probe()
    working, back = exact.to_working(probe), exact.from_working(probe)
    if _is_identity(probe, working):
        return dataclasses.replace(exact, identity=True)
    shaped = _curves_and_matrix(profile)
    if shaped is None:
        return exact
    own, standard = shaped, _standard()
    fast = Conversion(
        functools.partial(_by_matrix, own.curves, np.linalg.solve(standard.matrix, own.matrix), standard.roots),
        functools.partial(_by_matrix, standard.curves, np.linalg.solve(own.matrix, standard.matrix), own.roots),
    )
    off = max(
        np.abs(fast.to_working(probe).astype(int) - working).max(),
        np.abs(fast.from_working(probe).astype(int) - back).max(),
    )
    return fast if off <= _TOLERANCE else exact


@dataclasses.dataclass(frozen=True)
class _Shaper:
    """A profile as three curves and a matrix.

    Attributes:
      curves: float32 [3, 65536], code -> linear light 0..1.
      matrix: float64 [3, 3], linear light -> XYZ.
      roots: uint16 [3, _ROOTS], square root of linear light -> code.
    """

    curves: Array
    matrix: Array
    roots: Array


def _curves_and_matrix(profile: bytes) -> _Shaper | None:
    """What littleCMS makes of one channel at a time; None where that cannot be curves and a matrix."""
    ramp = np.zeros((3, _TOP + 1, 3), np.uint16)
    for channel in range(3):
        ramp[channel, :, channel] = np.arange(_TOP + 1)
    xyz = _cms(ramp.reshape(-1, 3), profile, _XYZ, "RGB", "XYZ", outdtype="float32").astype(np.float64)
    xyz = xyz.reshape(3, _TOP + 1, 3)
    primaries = xyz[:, -1]
    lengths = (primaries**2).sum(axis=1)
    curves = np.einsum("cnx,cx->cn", xyz, primaries) / lengths[:, None]
    curves = np.maximum.accumulate(curves.clip(0, 1), axis=1)  # the last digits of a float32 may wobble
    if not (np.isfinite(curves).all() and (lengths > 0).all()):
        return None
    light = np.linspace(0, 1, _ROOTS) ** 2
    codes = np.arange(_TOP + 1)
    roots = np.stack([np.interp(light, *_distinct(curve, codes)) for curve in curves])
    return _Shaper(curves.astype(np.float32), primaries.T, np.rint(roots).astype(np.uint16))


def _distinct(curve: Array, codes: Array) -> tuple[Array, Array]:
    """Nodes of the inverse of a curve: of codes with the same light the first, or the last at full light."""
    rising = np.concatenate([[True], np.diff(curve) > 0])
    return curve[rising], codes[rising]


@functools.lru_cache(maxsize=1)
def _standard() -> _Shaper:
    shaped = _curves_and_matrix(SRGB)
    assert shaped is not None
    return shaped


def _by_matrix(curves: Array, matrix: Array, roots: Array, values: Array) -> Array:
    light = [curve.take(values[:, channel]) for channel, curve in enumerate(curves)]
    converted = np.empty(values.shape, np.uint16)
    for channel, (weights, table) in enumerate(zip(matrix.astype(np.float32), roots, strict=True)):
        mixed = weights[0] * light[0]
        mixed += weights[1] * light[1]
        mixed += weights[2] * light[2]
        np.clip(mixed, 0, 1, out=mixed)
        np.sqrt(mixed, out=mixed)
        mixed *= np.float32(_ROOTS - 1)
        mixed += np.float32(0.5)
        converted[:, channel] = table.take(mixed.astype(np.int32))
    return converted


# --- samples of any depth ---------------------------------------------------------------------------------------------


def scale_of(values: Array) -> float:
    """The value of full light in samples of a dtype.

    Of uint8 and uint16 the dtype's most. Others do not say; it is the least of 1 (floats only, which may go to twice
    that), 255 (not unsigned), 65535 and the dtype's most that no sample exceeds.
    """
    if values.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(values.dtype).max)
    parts = (values[rows] for rows in _strips(*values.shape[:2]))
    most = max((float(np.nanmax(part, initial=0, where=np.isfinite(part))) for part in parts), default=0.0)
    if values.dtype.kind == "f":
        return 1.0 if most <= 2 else 255.0 if most <= 255 else float(max(_TOP, most))
    if most <= 255 and values.dtype.kind == "i":
        return 255.0
    return float(_TOP) if most <= _TOP else float(np.iinfo(values.dtype).max)


def _to_16(values: Array, scale: float) -> Array:
    """uint16 of samples of any dtype, full light at 65535."""
    if values.dtype == np.uint16:
        return values
    if values.dtype == np.uint8:
        return values.astype(np.uint16) * np.uint16(_CODE)
    fractions = np.nan_to_num(values.astype(np.float64) / scale, nan=0.0, posinf=1.0, neginf=0.0)
    return np.rint(fractions.clip(0, 1) * _TOP).astype(np.uint16)


def to_working(values: Array, convert: Conversion) -> Array:
    """A file's samples as sRGB.

    Args:
      values: [H, W] grey, or [H, W, C]; uint8, uint16, or any integer or floating-point dtype (see `scale_of`).
      convert: For their colour space.

    Returns:
      [H, W, 3]: uint8 where that loses nothing (8-bit samples that are sRGB already), else uint16. May be a view.
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    if convert.identity and values.dtype in (np.uint8, np.uint16):
        return values if channels == 3 else np.repeat(values.reshape(height, width, 1), 3, axis=2)
    scale = scale_of(values)
    strip_channels = channels if convert.identity else 3  # one channel spreads over three
    working = np.empty((height, width, 3), np.uint16)
    for rows in _strips(height, width):
        strip = _to_16(values[rows].reshape(-1, channels), scale)
        working[rows] = (strip if convert.identity else convert.to_working(strip)).reshape(-1, width, strip_channels)
    return working


def from_working(
    values: Array, working: Array, restored: Array, convert: Conversion, *, in_place: bool = False
) -> Array:
    """The file's samples with the model's change: `values + back(restored) - back(working)`, clipped once.

    Args:
      values: The file's own samples, as `to_working` took them.
      working: What `to_working` gave.
      restored: The model's picture, of the shape and dtype of `working`.
      convert: As for `to_working`.
      in_place: `values` are written over, which spares memory.

    Returns:
      Of the shape and dtype of `values`. (Grey files take the middle channel.)
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    if convert.identity and values.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(restored if channels == 3 else restored[..., 1]).reshape(values.shape)
    scale = scale_of(values)
    result = values if in_place and values.flags.writeable else np.empty(values.shape, values.dtype)
    for rows in _strips(height, width):
        own, before, after = values[rows], working[rows].reshape(-1, 3), restored[rows].reshape(-1, 3)
        if convert.identity:
            before, after = before[:, :channels], after[:, :channels]
            target = after.astype(np.int32)
            change = target - before
        else:
            target = convert.from_working(after).astype(np.int32)
            change = target - convert.from_working(before)
        moved = _moved(own.reshape(-1, channels), change, scale)
        if convert.fades and own.dtype in (np.uint8, np.uint16):
            distance = np.abs(after.astype(np.int32) - before).max(axis=1, keepdims=True)
            share = (1 - distance / np.float32(_FADE)).clip(0, 1).astype(np.float32)
            moved = np.rint(share * moved + (1 - share) * target).astype(np.int32)
        result[rows] = _clipped(moved, values.dtype).reshape(own.shape)
    return result


def _moved(own: Array, change: Array, scale: float) -> Array:
    """Samples plus a change of 65535 parts of full light; 8 and 16 bits on the scale of 16, not clipped yet."""
    if own.dtype in (np.uint8, np.uint16):
        wide: Array = own.astype(np.int32) * (_CODE if own.dtype == np.uint8 else 1) + change
        return wide
    # Floats beyond full light, and those that are no numbers, stay what they are unless the model moved them.
    return np.asarray(own + change * (scale / _TOP))


def _clipped(moved: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        return moved.astype(dtype)
    if dtype in (np.uint8, np.uint16):
        np.clip(moved, 0, _TOP, out=moved)
        return (moved if dtype == np.uint16 else (moved + _CODE // 2) // _CODE).astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(moved).clip(limits.min, limits.max).astype(dtype)


def _strips(height: int, width: int) -> list[slice]:
    rows = max(1, _STRIP // max(1, width))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def to_depth(values: Array, dtype: npt.DTypeLike) -> Array:
    """Samples of any dtype as uint8 or uint16."""
    wide = _to_16(values, scale_of(values))
    if np.dtype(dtype) == np.uint16:
        return wide
    return ((wide.astype(np.uint32) + _CODE // 2) // _CODE).astype(np.uint8)
