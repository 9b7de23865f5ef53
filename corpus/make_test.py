"""Makes a test set with known truth: `python corpus/make_test.py --input CORPUS_CSV --output DIR [--split test]`.

Good colour photographs of one split are aged in several ways, and written with their truth as pairs for `unfade
evaluate`. The damage is that of `samples/make_damaged.py`: NumPy and Pillow, and none of the code that trains the
generator (`models/degradation.py`), so that a score does not tell how well one program undoes itself.

Dyes fade in optical density, D = A c, c' = f c: the fast dye keeps a share f of 0.25 to 0.85, the middle one of 0.5 to
1, the slow one of 0.8 to 1. The side absorptions A differ from print to print. Column `held_out` is true where the
share of the fast dye, or the order of the dyes, is one that training leaves out.

An undamaged picture's target is its own file: what counts is how far a method moves it. All other targets are PNG.

A picture's damage depends on the seed, its regime and its name alone: the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from samples import make_damaged as ageing

REGIMES = (
    *("cyan_loss", "yellow_loss", "mixed", "uneven", "aged", "undamaged", "monochrome", "yellowed", "cast"),
    *("reference_related", "reference_unrelated"),
)
JPEG_QUALITY = 92
HELD_OUT_SHARES = (0.40, 0.55)  # of the fast dye
HELD_OUT_ORDER = ("magenta", "cyan")  # fastest, slowest
DYES = ("cyan", "magenta", "yellow")
STAINED_FROM = 0.06  # density in the blue from which a print is called yellowed
DARKEST = 1e-3  # linear light of the darkest black: a density of 3, as far as 8 bits reach
COLUMNS = (
    *("id", "image", "target", "caption", "reference", "wrong_caption", "regime", "damage", "defects", "held_out"),
    *("fastest", "slowest", "left_cyan", "left_magenta", "left_yellow", "photograph", "source", "people"),
)

Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One good photograph.

    Attributes:
      name: Stem of its file.
      path: The file.
      caption: What it shows, and its colours.
      source: The package it comes from.
      people: "1" if it shows people.
    """

    name: str
    path: Path
    caption: str
    source: str
    people: str


@dataclasses.dataclass(frozen=True)
class Aged:
    """An aged picture and what was done to it.

    Attributes:
      image: The scan.
      damage: True classes.
      recipe: How its dyes faded; None if they did not.
      defects: Where dust and scratches lie, or None.
    """

    image: Image.Image
    damage: tuple[str, ...]
    recipe: ageing.Recipe | None = None
    defects: Image.Image | None = None


def read_photographs(manifest: Path, split: str) -> list[Photograph]:
    """The colour photographs of a split, by name; captions with their colours, as `build.py` writes them."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    found = []
    for row in rows:
        if row.get("kind", "photo") != "photo" or row.get("monochrome") == "1":
            continue
        caption, colours = row["caption"], row.get("colours", "")
        if colours and colours not in caption:
            caption = f"{caption}; {colours}"
        path = manifest.parent / row["image"]
        found.append(Photograph(path.stem, path, caption, row.get("source", ""), row.get("people", "")))
    return sorted(found, key=lambda photograph: photograph.name)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the names only."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def fading(rng: np.random.Generator, fastest: str | None = None, uneven: float = 0.0) -> ageing.Recipe:
    """Draws how the dyes fade: one fast, one middle, one slow, in a random order, or the named one fastest."""
    first = DYES.index(fastest) if fastest else int(rng.integers(3))
    others = rng.permutation([dye for dye in range(3) if dye != first])
    fast = rng.uniform(0.25, 0.85)
    middle = rng.uniform(max(0.5, fast), 1.0)
    slow = rng.uniform(max(0.8, middle), 1.0)
    left = [0.0, 0.0, 0.0]
    for dye, share in zip((first, *others), (fast, middle, slow), strict=True):
        left[dye] = float(share)
    side = np.clip(ageing.DYES * rng.uniform(0.6, 1.4, (3, 3)), 0.02, 0.35)
    absorption = np.where(np.eye(3) > 0, 1.0, side)
    return ageing.Recipe(
        seed=0,  # the generator is handed on
        left=(left[0], left[1], left[2]),
        uneven=uneven,
        stain=(0.0, 0.0, 0.0),
        grain=0.0,
        softness=0.0,
        absorption=tuple(map(tuple, absorption.tolist())),
    )


def stained(recipe: ageing.Recipe, rng: np.random.Generator, least: float, most: float) -> ageing.Recipe:
    """The recipe with a yellow stain whose density in the blue lies between two values."""
    blue = rng.uniform(least, most)
    return dataclasses.replace(recipe, stain=(blue * rng.uniform(0.0, 0.3), blue * rng.uniform(0.3, 0.7), blue))


def order(recipe: ageing.Recipe) -> tuple[str, str]:
    """The fastest and the slowest dye."""
    return DYES[int(np.argmin(recipe.left))], DYES[int(np.argmax(recipe.left))]


def is_held_out(recipe: ageing.Recipe) -> bool:
    """Whether training leaves out fading like this."""
    low, high = HELD_OUT_SHARES
    return low <= min(recipe.left) < high or order(recipe) == HELD_OUT_ORDER


def to_density(picture: Image.Image) -> ageing.Floats:
    """Density of a fresh print of a picture, paper included."""
    return ageing.PAPER - np.log10(np.maximum(ageing.to_linear(np.asarray(picture)), DARKEST))


def scan(density: ageing.Floats) -> Image.Image:
    """The scan of a print; the scanner's white is fresh paper."""
    return Image.fromarray(ageing.to_srgb(10.0 ** (ageing.PAPER - density)))


def fade(picture: Image.Image, recipe: ageing.Recipe, rng: np.random.Generator) -> tuple[ageing.Floats, list[str]]:
    """Density of the faded, perhaps stained print, and its classes of damage."""
    density = ageing.yellow(ageing.fade(to_density(picture), recipe, rng), recipe, rng)
    return density, ["faded", "yellowed"] if recipe.stain[2] >= STAINED_FROM else ["faded"]


def _faded(picture: Image.Image, rng: np.random.Generator, recipe: ageing.Recipe) -> Aged:
    density, classes = fade(picture, recipe, rng)
    return Aged(scan(density), tuple(classes), recipe)


def _mixed(picture: Image.Image, rng: np.random.Generator) -> Aged:
    recipe = fading(rng)
    return _faded(picture, rng, stained(recipe, rng, 0.02, 0.2) if rng.random() < 0.5 else recipe)


def _aged(picture: Image.Image, rng: np.random.Generator) -> Aged:
    recipe = fading(rng, uneven=rng.uniform(0.0, 0.3))
    if rng.random() < 0.5:
        recipe = stained(recipe, rng, 0.02, 0.2)
    recipe = dataclasses.replace(
        recipe,
        grain=rng.uniform(0.015, 0.045),
        softness=rng.uniform(0.3, 0.8),
        dust=int(rng.integers(4, 20)),
        scratches=int(rng.integers(1, 5)),
    )
    density, classes = fade(picture.filter(ImageFilter.GaussianBlur(recipe.softness)), recipe, rng)
    density = ageing.add_grain(density, recipe, rng)
    gone, dirt = ageing.wear_mask(recipe, rng, picture.height, picture.width)
    worn = scan(ageing.wear(density, recipe, gone, dirt))
    if rng.random() < 0.25:  # saved once before
        worn = Image.open(io.BytesIO(to_jpeg(worn, int(rng.integers(40, 90)), 2)))
        worn.load()
    mask = Image.fromarray(np.rint(np.maximum(gone, dirt)[..., 0] * 255).astype(np.uint8))
    return Aged(worn, (*classes, "noisy", "scratched"), recipe, mask)


def _monochrome(picture: Image.Image, rng: np.random.Generator) -> Aged:
    """As panchromatic film sees it, or an orthochromatic one, which is nearly blind to red."""
    weights = np.array([0.30, 0.50, 0.20]) if rng.random() < 0.7 else np.array([0.05, 0.55, 0.40])
    weights = weights * rng.uniform(0.8, 1.2, 3)
    light = ageing.to_linear(np.asarray(picture)) @ (weights / weights.sum())
    return Aged(Image.fromarray(ageing.to_srgb(np.repeat(light[..., None], 3, axis=2))), ("monochrome",))


def _yellowed(picture: Image.Image, rng: np.random.Generator) -> Aged:
    recipe = stained(fading(rng), rng, STAINED_FROM, 0.35)
    return Aged(scan(ageing.yellow(to_density(picture), recipe, rng)), ("yellowed",))


def _cast(picture: Image.Image, rng: np.random.Generator) -> Aged:
    """A scanner's or a lamp's: a factor a channel, none of them over 1."""
    offset = rng.normal(size=3)
    offset *= rng.uniform(0.08, 0.35) / np.ptp(offset)
    return Aged(scan(to_density(picture) + offset - offset.min()), ("cast",))


def age(picture: Image.Image, regime: str, rng: np.random.Generator) -> Aged:
    """Ages a photograph as a regime says."""
    match regime:
        case "cyan_loss" | "yellow_loss":
            return _faded(picture, rng, fading(rng, regime.removesuffix("_loss")))
        case "mixed" | "reference":
            return _mixed(picture, rng)
        case "uneven":
            return _faded(picture, rng, fading(rng, uneven=rng.uniform(0.3, 0.6)))
        case "aged":
            return _aged(picture, rng)
        case "undamaged":
            return Aged(picture, ("clean",))
        case "monochrome":
            return _monochrome(picture, rng)
        case "yellowed":
            return _yellowed(picture, rng)
        case "cast":
            return _cast(picture, rng)
    raise ValueError(f"no regime {regime}")


def to_jpeg(picture: Image.Image, quality: int, subsampling: int) -> bytes:
    """One JPEG file."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality, subsampling=subsampling)
    return out.getvalue()


def to_png(picture: Image.Image) -> bytes:
    """One PNG file."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def load(photograph: Photograph, side: int) -> Image.Image:
    """The photograph, its longest side at most `side`."""
    with Image.open(photograph.path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


class Writer:
    """Writes a test set's pictures below a folder.

    Args:
      folder: The test set.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, data: bytes) -> str:
        """Writes a file; gives its name."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name


def rows_of(
    photograph: Photograph, other: Photograph, regimes: Iterable[str], seed: int, side: int, writer: Writer
) -> Iterator[Row]:
    """The items of one photograph, their files written.

    Args:
      photograph: To age.
      other: Another one: its caption is the wrong caption, and it is the unrelated reference.
      regimes: Which of `REGIMES`.
      seed: Of the damage.
      side: Longest side in pixels.
      writer: Of the files.
    """
    regimes = list(regimes)
    whole = load(photograph, side)
    half = whole.crop((0, 0, whole.width // 2, whole.height))
    target = writer.write(f"targets/{photograph.name}.png", to_png(whole))
    # Both reference regimes have one and the same input: what differs is the reference alone.
    references = {regime: _reference(regime, photograph, other, whole, writer) for regime in regimes}
    half_target = ""
    if any(references.values()):
        half_target = writer.write(f"targets/{photograph.name}-half.png", to_png(half))
    for regime in regimes:
        kind = "reference" if references[regime] else regime
        aged = age(half if references[regime] else whole, kind, generator(seed, kind, photograph.name))
        quality, subsampling = JPEG_QUALITY, 0
        if regime == "aged":
            quality, subsampling = int(generator(seed, "quality", photograph.name).integers(40, 93)), 2
        image = writer.write(f"images/{kind}/{photograph.name}.jpg", to_jpeg(aged.image, quality, subsampling))
        row = {
            "id": f"{regime}/{photograph.name}",
            "image": image,
            "target": image if regime == "undamaged" else half_target if references[regime] else target,
            "caption": photograph.caption,
            "reference": references[regime],
            "wrong_caption": other.caption,
            "regime": regime,
            "damage": ";".join(aged.damage),
            "defects": writer.write(f"defects/{photograph.name}.png", to_png(aged.defects)) if aged.defects else "",
            "photograph": photograph.name,
            "source": photograph.source,
            "people": photograph.people,
        }
        if aged.recipe is not None:
            row["fastest"], row["slowest"] = order(aged.recipe)
            row["held_out"] = str(is_held_out(aged.recipe)).lower()
            row |= {f"left_{dye}": f"{share:.4f}" for dye, share in zip(DYES, aged.recipe.left, strict=True)}
        yield row


def _reference(regime: str, photograph: Photograph, other: Photograph, whole: Image.Image, writer: Writer) -> str:
    """Writes the related picture of an item, if its regime has one; gives its name, or nothing."""
    if regime == "reference_related":  # the other half of the photograph
        rest = whole.crop((whole.width // 2, 0, whole.width, whole.height))
        return writer.write(f"references/{photograph.name}-rest.jpg", to_jpeg(rest, JPEG_QUALITY, 0))
    if regime == "reference_unrelated":
        stranger = load(other, max(whole.size))
        return writer.write(f"references/{other.name}.jpg", to_jpeg(stranger, JPEG_QUALITY, 0))
    return ""


def make(photographs: list[Photograph], regimes: Iterable[str], seed: int, side: int, output: Path) -> list[Row]:
    """Makes the whole set and its manifest `pairs.csv`; gives its rows."""
    if len(photographs) < 2:
        raise SystemExit(f"{len(photographs)} colour photographs of this split: at least 2 are needed")
    # Every photograph gets the caption of one other: a ring in a random order.
    ring = [photographs[index] for index in generator(seed, "ring").permutation(len(photographs))]
    others = dict(zip((one.name for one in ring), [*ring[1:], ring[0]], strict=True))
    writer = Writer(output)
    rows: list[Row] = []
    for photograph in photographs:
        rows += rows_of(photograph, others[photograph.name], regimes, seed, side, writer)
    rows.sort(key=lambda row: row["id"])
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    table.writeheader()
    table.writerows(rows)
    writer.write("pairs.csv", text.getvalue().encode("utf-8"))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and makes the set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--input", type=Path, required=True, help="corpus.csv that build.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for the test set")
    parser.add_argument("--split", default="test", help="which photographs (default: %(default)s)")
    parser.add_argument("--regimes", default=",".join(REGIMES), help="which damage (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: %(default)s)")
    parser.add_argument("--side", type=int, default=512, help="longest side in pixels (default: %(default)s)")
    options = parser.parse_args(arguments)
    regimes = [regime.strip() for regime in options.regimes.split(",")]
    if unknown := set(regimes) - set(REGIMES):
        parser.error(f"--regimes: unknown {', '.join(sorted(unknown))}; choose from {', '.join(REGIMES)}")
    rows = make(read_photographs(options.input, options.split), regimes, options.seed, options.side, options.output)
    print(f"{len(rows)} pairs in {options.output / 'pairs.csv'}")


if __name__ == "__main__":
    main()
