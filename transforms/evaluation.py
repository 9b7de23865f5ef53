"""Evaluating: each picture that has a target is restored by every method, and each result is measured against it."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam import pvalue
from PIL import Image

from models import oracle
from models.contract import DAMAGE_CLASSES, NUMBERS
from models.correction import knots
from models.decision import Decision
from transforms import codecs, isolation, metrics, outputs, pairs, storage
from transforms.baselines import BASELINES
from transforms.captions import caption_of
from transforms.guard import Step
from transforms.inference import Apply, Decided, DecideHandler, Undecided
from transforms.items import ItemFailure, Pair
from transforms.methods import INPUT, ORACLES, PARTS, Method
from transforms.outputs import FIDELITY, Row
from transforms.records import Source, shard_of

WRONG_CAPTION = "wrong_caption"
"""Manifest column with a caption that is not the picture's."""

DEFECTS = "defects"
"""Manifest column with the picture of where dust and scratches are, white on black."""

COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "uri", "method", "group", "caption")),
        *((name, pa.int64()) for name in ("width", "height")),
        *((name, pa.float64()) for name in FIDELITY),
        ("identical", pa.bool_()),
        *((name, pa.float64()) for name in NUMBERS),
        ("damage", pa.string()),
        *((f"damage_{name}", pa.float64()) for name in DAMAGE_CLASSES),
        ("defect_iou", pa.float64()),
        ("model_sha256", pa.string()),
    ]
)
"""Schema of `scores-*.parquet`, one row an item and method, before the carried columns."""


def rows_to_parquet(rows: list[Row], carried: Iterable[str]) -> bytes:
    """One shard of scores; see `outputs.rows_to_parquet`."""
    return outputs.rows_to_parquet(rows, carried, COLUMNS)


class Score(Step[Source, list[Row]]):
    """Source -> a Row for each method. One method that fails fails the item, so that all methods have the same items.

    Args:
      methods: What to compare; `identity` among them.
      digests: Digest of each model by URI.
      manifest: The input: files of the column `defects` are named relative to it.
      group_by: The manifest's column to group by, "" for none.
      max_side: Input and target are first reduced to this longest side; 0 for none.
      max_pixels: As for decoding.
      size_multiple: For foreign models.
      max_batch_size: Most variants in one call of the model.
      allow_truncated: As for decoding.
      colourise: See `models.contract.COLOURISE`.
      clean: Whether noise, scratches and JPEG artefacts are taken out.
      trusted: See `models.vetting.check`.
    """

    stage = "evaluate"

    def __init__(
        self,
        methods: Sequence[Method],
        digests: dict[str, str],
        manifest: str,
        group_by: str,
        max_side: int,
        max_pixels: int,
        size_multiple: int,
        max_batch_size: int,
        allow_truncated: bool = False,
        colourise: str = "never",
        clean: bool = True,
        trusted: bool = False,
    ) -> None:
        self._manifest = manifest
        self._plain = [method for method in methods if not method.uri]
        self._models: dict[str, list[Method]] = {}
        for method in methods:
            if method.uri:
                self._models.setdefault(method.uri, []).append(method)
        self._digests, self._group_by, self._max_side, self._max_pixels = digests, group_by, max_side, max_pixels
        self._handlers = {
            uri: DecideHandler(uri, size_multiple, max_batch_size, colourise, clean, digests.get(uri), trusted)
            for uri in self._models
        }
        self._apply = {
            uri: Apply(uri, size_multiple, max_pixels, allow_truncated, digests.get(uri), trusted)
            for uri in self._models
        }
        self._allow_truncated = allow_truncated

    def setup(self) -> None:
        """Loads the models."""
        for handler in self._handlers.values():
            handler.load_model()

    def run(self, source: Source) -> list[Row]:
        """See the class. Raises `ItemFailure` also for a target that is unreadable or of another size."""
        picture = isolation.decode(source.encoded, self._max_pixels, allow_truncated=self._allow_truncated)
        truth = self._truth(source, picture)
        defects = self._defects(source)
        if self._max_side:
            picture = dataclasses.replace(picture, pixels=reduced(picture.pixels, self._max_side))
            truth = reduced(truth, self._max_side)
        rows = []
        for method in self._plain:
            pixels = picture.pixels
            if method.name in ORACLES:
                small = codecs.thumbnail(pixels), codecs.thumbnail(truth)
                pixels = oracle.restore(pixels, *small, even=method.name == "oracle_even")
            elif method.name != INPUT:  # the others work in 8 bits
                eight = pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8)
                pixels = BASELINES[method.name](eight)
            rows.append(self._row(source, method, outputs.shown(picture, pixels), truth))
        for uri, methods in self._models.items():
            asked = [_asked(source, method.variant) for method in methods]
            thumbnail = codecs.thumbnail(picture.pixels)
            batch = [Undecided(one, thumbnail, picture) for one in asked]
            decided = self._handlers[uri].run_inference(batch, self._handlers[uri].load_model())
            for method, one in zip(methods, decided, strict=True):
                restored = self._apply[uri].run(_without(one, method.variant))
                row = self._row(source, method, outputs.shown(picture, restored.pixels, restored.decision), truth)
                said = {
                    **_said(restored.decision),
                    "defect_iou": _overlap(restored.decision.maps.get("defect_map"), defects),
                }
                rows.append({**row, **said, "model_sha256": self._digests[uri]})
        return rows

    def _defects(self, source: Source) -> npt.NDArray[np.uint8] | None:
        """Where the manifest says that defects are, uint8 [H, W]; None if it does not say."""
        name = source.pair.extra.get(DEFECTS)
        if not name:
            return None
        uri = pairs.beside(self._manifest, name)
        try:
            return isolation.decode(storage.read_bytes(uri), self._max_pixels).pixels[..., 0]
        except ItemFailure as failure:
            raise ItemFailure(f"Defects{failure.error}", f"defects: {failure.message}") from failure

    def _truth(self, source: Source, picture: codecs.Picture) -> npt.NDArray[Any]:
        if source.target is None:
            raise ItemFailure("NoTarget", "there is no target to compare with")
        try:
            truth = isolation.decode(source.target, self._max_pixels).pixels
        except ItemFailure as failure:
            raise ItemFailure(f"Target{failure.error}", f"target: {failure.message}") from failure
        if truth.shape != picture.pixels.shape:
            ours, theirs = (f"{shape[1]} x {shape[0]}" for shape in (picture.pixels.shape, truth.shape))
            raise ItemFailure(
                "TargetSize",
                f"the picture has {ours} pixels, its target {theirs}; scores need one size: scale it or leave it out",
            )
        return truth

    def _row(self, source: Source, method: Method, pixels: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Row:
        height, width = pixels.shape[:2]
        return {
            "id": source.pair.id,
            "uri": source.pair.uri,
            "method": method.name,
            "group": source.pair.extra.get(self._group_by),
            "width": width,
            "height": height,
            **metrics.fidelity(pixels, truth),
            "extra": dict(source.pair.extra),
        }


def _asked(source: Source, variant: str) -> Source:
    """The source as a variant of a model sees it."""
    match variant:
        case "no_caption":
            return dataclasses.replace(source, caption="")
        case "wrong_caption":
            return dataclasses.replace(source, caption=source.pair.extra.get(WRONG_CAPTION, ""))
        case "no_reference":
            return dataclasses.replace(source, palette=np.zeros(0, np.float32))
        case _:
            return source


def _without(decided: Decided, variant: str) -> Decided:
    """The same without one of its parts, as `methods.PARTS` names them; it goes on expecting what it did."""
    if variant not in PARTS or decided.decision is None:
        return decided
    coefficients = dict(decided.decision.coefficients)
    if not coefficients:
        raise ItemFailure("NoParts", f"somebody else's model has no parts that {variant} could leave out")
    match variant:
        case "no_field":
            coefficients["slope"] = np.zeros_like(coefficients["slope"])
        case "no_curves":
            coefficients["curves"] = np.tile(knots(), (3, 1))
        case "no_chroma":
            coefficients["chroma"] = np.zeros_like(coefficients["chroma"])
        case "no_detail":
            coefficients["detail"] = np.zeros_like(coefficients["detail"])
    return dataclasses.replace(decided, decision=dataclasses.replace(decided.decision, coefficients=coefficients))


def _overlap(found: npt.NDArray[np.uint8] | None, defects: npt.NDArray[np.uint8] | None) -> float | None:
    """Intersection over union of the cells in which a defect is found, and in which one is.

    Args:
      found: uint8 [64, 64], half of 255 or more where a defect is found.
      defects: uint8 [H, W], half of 255 or more where one is; a cell has what any of its pixels has.

    Returns:
      0..1; None if nobody says, or if there is nothing to find and nothing found.
    """
    if found is None or defects is None:
        return None
    rows, columns = (np.arange(size) * side // size for size, side in zip(defects.shape, found.shape, strict=True))
    truth = np.zeros(found.shape, bool)
    np.logical_or.at(truth, (rows[:, None], columns[None, :]), defects >= 128)
    either = np.count_nonzero(truth | (found >= 128))
    return np.count_nonzero(truth & (found >= 128)) / either if either else None


def _said(decision: Decision) -> Row:
    """What the model said, as columns."""
    damage = decision.damage
    return {
        "caption": decision.caption,
        **{name: getattr(decision, name) for name in NUMBERS},
        "damage": max(damage, key=damage.__getitem__) if damage else None,
        **{f"damage_{kind}": probability for kind, probability in damage.items()},
    }


def reduced(pixels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """The picture with its longest side at most `side`, by area means; uint8 or uint16 [H, W, 3] to the same."""
    height, width, _ = pixels.shape
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    planes = [Image.fromarray(pixels[..., channel].astype(np.float32)) for channel in range(3)]
    small = np.stack([np.asarray(plane.resize(size, Image.Resampling.BOX)) for plane in planes], axis=-1)
    return np.rint(small).astype(pixels.dtype)


class AddWrongCaptions(beam.PTransform):
    """Gives every pair without a column `wrong_caption` the caption of another pair (see `wrong_captions`).

    All captions meet in one place, where they must fit in memory; pictures do not.
    """

    def expand(self, pairs: pvalue.PCollection) -> pvalue.PCollection:
        """PCollection[Pair] -> PCollection[Pair]."""
        return (
            pairs
            | "Caption" >> beam.Map(_captioned)
            | "Together" >> beam.GroupByKey()
            | "Exchange" >> beam.FlatMap(_exchanged)
            | "Deal" >> beam.Reshuffle()
        )


def _captioned(pair: Pair) -> tuple[None, tuple[str, Pair]]:
    try:
        # A caption may be inside the file; one that cannot be read is reported when the picture is.
        caption = pair.caption or caption_of(pair, storage.read_bytes(pair.uri))
    except ItemFailure:
        caption = ""
    return None, (caption, pair)


def _exchanged(group: tuple[None, Iterable[tuple[str, Pair]]]) -> Iterable[Pair]:
    items = list(group[1])
    others = wrong_captions({pair.id: caption for caption, pair in items})
    for _, pair in items:
        given = pair.extra.get(WRONG_CAPTION) or others[pair.id]
        yield dataclasses.replace(pair, extra={**pair.extra, WRONG_CAPTION: given})


def wrong_captions(captions: dict[str, str]) -> dict[str, str]:
    """For each id the caption of another: the next by hash of id that has one, and a different one.

    It depends on ids and captions alone, not on their order. "" where no caption differs.

    Args:
      captions: By id, "" for none.
    """

    def place(id: str) -> tuple[int, str]:
        return shard_of(id, 1 << 64), id

    ring = sorted((id for id, caption in captions.items() if caption), key=place)
    following: dict[int, str] = {}
    for position in reversed(range(2 * len(ring))):  # twice round: the last one's next may be far past the first
        here, after = position % len(ring), (position + 1) % len(ring)
        caption = captions[ring[after]]
        following[here] = caption if caption != captions[ring[here]] else following.get(after, "")
    places = [place(id) for id in ring]
    chosen = {id: following[index] for index, id in enumerate(ring)}
    for id in captions.keys() - chosen.keys():
        chosen[id] = captions[ring[bisect.bisect(places, place(id)) % len(ring)]] if ring else ""
    return chosen
