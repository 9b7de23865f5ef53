"""Fade and wear the colour photographs of `originals/` into the prints of `scans/`.

`python samples/make_damaged.py` writes one scan for each original. The photographs are real and the damage is not:
that is what makes the true colours known, so that a restoration can be measured and not only admired.

The damage follows what happens to a chromogenic print (1960s to 1980s). Everything up to the scanner happens in optical
density, D = -log10(reflectance): the picture is resolved into the amounts of its cyan, magenta and yellow dye, each
dye loses a share of its own (more where the light fell), the gelatine yellows, and grain, dust and scratches
come on top. The random numbers start from a seed in the recipe: on one machine, with one version of NumPy and Pillow,
every run writes the same bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]

HERE = Path(__file__).resolve().parent
JPEG_QUALITY = 86
DARKEST = 10.0**-2.1  # a glossy colour print reaches a density of about 2.1
PAPER = 0.04  # density of fresh paper white

# What one unit of cyan, magenta and yellow dye (columns) adds to the density seen by red, green and blue (rows).
DYES: Floats = np.array([[1.00, 0.10, 0.02], [0.22, 1.00, 0.08], [0.10, 0.28, 1.00]])


@dataclass(frozen=True)
class Recipe:
    """How one print has aged."""

    seed: int
    left: tuple[float, float, float]  # share of the cyan, magenta and yellow dye that is left
    uneven: float  # how much the fading varies across the print: 0 is even
    stain: tuple[float, float, float]  # density that yellowing adds for red, green and blue
    grain: float  # standard deviation of the density at density 1
    softness: float  # blur of the enlarger and the scanner, in pixels
    dust: int = 0  # number of specks
    scratches: int = 0
    absorption: tuple[tuple[float, ...], ...] = tuple(map(tuple, DYES.tolist()))


RECIPES = {
    # On a wall for years: the magenta dye has gone, the print has turned green.
    "kingfisher": Recipe(11, (0.80, 0.42, 0.72), 0.30, (0.02, 0.04, 0.10), 0.020, 0.6, dust=8),
    # Light-faded paper of the 1970s: the yellow dye has gone, whites and skin turn blue.
    "red-panda": Recipe(12, (0.94, 0.78, 0.34), 0.25, (0.02, 0.02, 0.03), 0.018, 0.5, dust=6),
    # Kept in a warm drawer: the cyan dye has gone, everything is red.
    "guadalajara-mariachi": Recipe(13, (0.34, 0.80, 0.70), 0.20, (0.02, 0.05, 0.12), 0.024, 0.6, dust=14, scratches=2),
    # An album page with bad glue: cyan lost, and a strong yellow stain.
    "bata-drums": Recipe(14, (0.36, 0.76, 0.84), 0.40, (0.03, 0.08, 0.22), 0.022, 0.6, dust=20, scratches=3),
    # All three dyes have lost more than a third: pale, warm, flat.
    "pont-du-gard": Recipe(15, (0.44, 0.52, 0.62), 0.25, (0.03, 0.06, 0.14), 0.020, 0.7, dust=10, scratches=1),
    # Yellow and cyan are gone in equal parts: the print has turned pink.
    "hawa-mahal": Recipe(16, (0.55, 0.84, 0.50), 0.25, (0.02, 0.04, 0.08), 0.020, 0.5, dust=6),
    # Magenta lost wherever the light fell: red rock has turned green and grey.
    "canyon-de-chelly": Recipe(17, (0.74, 0.46, 0.84), 0.50, (0.02, 0.04, 0.13), 0.022, 0.6, dust=16, scratches=2),
}


def to_linear(srgb: NDArray[np.uint8]) -> Floats:
    """Turn sRGB code values into linear light, 0 to 1."""
    value = srgb.astype(np.float64) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Floats) -> NDArray[np.uint8]:
    """Turn linear light, 0 to 1, into sRGB code values."""
    light = np.clip(linear, 0.0, 1.0)
    value = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(value * 255.0).astype(np.uint8)


def smooth_map(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Draw a field that varies over about 1/`cells` of the picture, with mean 0 and standard deviation 1."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    field = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    centred: Floats = (field - field.mean()) / field.std()
    return centred


def spread(plane: Floats, weight: float) -> Floats:
    """Mix each pixel with its four neighbours, `weight` to each: what gives grain its size."""
    padded = np.pad(plane, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (1 - 4 * weight) * plane + weight * around


def fade(density: Floats, recipe: Recipe, rng: np.random.Generator) -> Floats:
    """Take away each dye's share: c' = f ** (1 + g(x)) * c, with a low-frequency g."""
    height, width, _ = density.shape
    absorption = np.array(recipe.absorption)
    dyes = (density - PAPER) @ np.linalg.inv(absorption).T
    reach = np.clip(1 + recipe.uneven * smooth_map(rng, height, width, 3), 0.15, 2.2)
    left = np.array(recipe.left) ** reach[..., None]
    lost: Floats = (np.maximum(dyes, 0.0) * (1 - left)) @ absorption.T
    return density - lost


def yellow(density: Floats, recipe: Recipe, rng: np.random.Generator) -> Floats:
    """Add the stain of old gelatine and paper, a little blotchy."""
    height, width, _ = density.shape
    blotches = np.clip(1 + 0.25 * smooth_map(rng, height, width, 4), 0.3, 1.8)
    stained: Floats = density + blotches[..., None] * np.array(recipe.stain)
    return stained


def add_grain(density: Floats, recipe: Recipe, rng: np.random.Generator) -> Floats:
    """Add grain that grows with the root of the density and is partly shared by the three layers."""
    height, width, _ = density.shape
    shared = rng.standard_normal((height, width, 1))
    own = rng.standard_normal((height, width, 3))
    noise = 0.6 * shared + 0.8 * own
    grain = np.stack([spread(noise[..., channel], 0.15) for channel in range(3)], axis=-1) / 0.5
    return density + recipe.grain * np.sqrt(np.maximum(density, 0.02)) * grain


def wear_mask(recipe: Recipe, rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Draw where the picture layer is gone (white specks and scratches) and where dirt lies on it (dark specks)."""
    scale = 4  # drawn large and reduced, for soft edges
    gone = Image.new("L", (width * scale, height * scale))
    dirt = Image.new("L", (width * scale, height * scale))
    for number in range(recipe.dust):
        draw = ImageDraw.Draw(dirt if number % 3 == 0 else gone)
        x, y = rng.uniform(0, width * scale), rng.uniform(0, height * scale)
        if number % 4 == 3:  # a fibre
            steps = np.cumsum(rng.normal(0, 5, (9, 2)) + rng.normal(0, 7, 2), axis=0)
            draw.line([(x + dx, y + dy) for dx, dy in steps], fill=int(rng.integers(110, 200)), width=4, joint="curve")
        else:
            radius = 3.0 + rng.exponential(3.0)
            flat = radius * rng.uniform(0.5, 1.0)
            draw.ellipse((x - radius, y - flat, x + radius, y + flat), fill=int(rng.integers(140, 245)))
    for _ in range(recipe.scratches):
        draw = ImageDraw.Draw(gone)
        x, y = rng.uniform(0.1, 0.9) * width * scale, rng.uniform(0.0, 0.5) * height * scale
        length, lean = rng.uniform(0.3, 0.7) * height * scale, rng.normal(0, 0.12)
        path = [(x + lean * length * t + rng.normal(0, 2), y + length * t) for t in np.linspace(0, 1, 24)]
        for start, end in pairwise(path):  # presses unevenly
            draw.line((start, end), fill=int(rng.integers(40, 190)), width=int(rng.integers(2, 5)))
    small = [mask.resize((width, height), Image.Resampling.BOX) for mask in (gone, dirt)]
    masks = [np.asarray(mask, dtype=np.float64)[..., None] / 255.0 for mask in small]
    return masks[0], masks[1]


def wear(density: Floats, recipe: Recipe, gone: Floats, dirt: Floats) -> Floats:
    """Lay dust and scratches over the print, where `wear_mask` drew them."""
    bare = PAPER + np.array(recipe.stain) * 0.5
    worn: Floats = density * (1 - gone) + bare * gone + dirt * np.array([0.55, 0.60, 0.65])
    return worn


def age(original: Image.Image, recipe: Recipe) -> Image.Image:
    """Turn a photograph into a scan of its aged print, of the same size."""
    rng = np.random.default_rng(recipe.seed)
    soft = original.convert("RGB").filter(ImageFilter.GaussianBlur(recipe.softness))
    density = PAPER - np.log10(np.maximum(to_linear(np.asarray(soft)), DARKEST))
    density = fade(density, recipe, rng)
    density = yellow(density, recipe, rng)
    density = add_grain(density, recipe, rng)
    density = wear(density, recipe, *wear_mask(recipe, rng, original.height, original.width))
    return Image.fromarray(to_srgb(10.0**-density))


def encode(scan: Image.Image) -> bytes:
    """Write the scan as the JPEG that an archive would keep."""
    out = io.BytesIO()
    scan.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=1, optimize=True, dpi=(300, 300))
    return out.getvalue()


def main() -> None:
    """Age every original."""
    (HERE / "scans").mkdir(exist_ok=True)
    for name, recipe in RECIPES.items():
        with Image.open(HERE / "originals" / f"{name}.jpg") as original:
            scan = encode(age(original, recipe))
        (HERE / "scans" / f"{name}.jpg").write_bytes(scan)
        print(f"scans/{name}.jpg: {len(scan)} bytes")


if __name__ == "__main__":
    main()
