"""What `restore` writes for each picture: the restored file, and its row of metrics."""

from __future__ import annotations

import dataclasses
import posixpath
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.contract import DAMAGE_CLASSES, NUMBERS
from transforms import (
    captions,
    codecs,
    identity,
    isolation,
    metrics,
    pairs,
    previews,
    provenance,
    records,
    sinks,
    storage,
    timing,
)
from transforms.decisions import INPUT, REJECT, Decision
from transforms.guard import Step
from transforms.items import ItemFailure, Pair

if TYPE_CHECKING:
    from models.decision import Decision as Said
    from transforms.inference import Restored
    from transforms.records import Source

Row = dict[str, Any]
"""One picture's metrics: the columns of `COLUMNS`, and `extra`: the manifest's own columns."""

QUALITY = ("colourfulness", "cast_a", "cast_b", "density_range", "noise", "clipped", "sharpness")
FIDELITY = ("psnr", "ssim", "ms_ssim", "ciede2000")

_TEXT = (
    *("id", "uri", "output", "format", "output_format", "mode", "caption", "sha256_in", "sha256_out", "damage"),
    *("notes", "colour_class", "preview", "decision"),
)
_WHOLE = ("width", "height", "bits_in", "bits", "bytes_in", "bytes_out")
_REAL = (
    *NUMBERS,
    *(f"damage_{name}" for name in DAMAGE_CLASSES),
    *(f"before_{name}" for name in QUALITY),
    *(f"after_{name}" for name in QUALITY),
    *(f"input_{name}" for name in FIDELITY),
    *FIDELITY,
)

COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        *((name, pa.int64()) for name in _WHOLE),
        *((name, pa.float64()) for name in _REAL),
        ("identical", pa.bool_()),
        ("model_sha256", pa.string()),
        ("fingerprint", pa.string()),
    ]
)
"""Schema of `metrics-*.parquet`, before the carried columns. `docs/metrics.md` explains each."""


@dataclasses.dataclass(frozen=True)
class FileOptions:
    """How restored files are written.

    Attributes:
      output_format: One of `codecs.OUTPUT_FORMATS`; None: as the input.
      history: Whether the restoration is added to `xmpMM:History`.
      describe: Whether `dc:description` says so, too.
      source_type: Whether IPTC `DigitalSourceType` is set.
      previews: Whether the report gets small pictures.
    """

    output_format: str | None = None
    history: bool = True
    describe: bool = False
    source_type: bool = False
    previews: bool = True


def shown(picture: codecs.Picture, pixels: npt.NDArray[Any], decision: Said | None = None) -> npt.NDArray[Any]:
    """What the written file will show, not what a model computed: a grey file keeps one channel unless coloured.

    Args:
      picture: The decoded input.
      pixels: uint8 or uint16 [H, W, 3].
      decision: The model's, None for a baseline.
    """
    grey = picture.grey and not invents(decision)
    return pixels[..., 1:2].repeat(3, axis=2) if grey else pixels


def invents(decision: Said | None) -> bool:
    """Whether the picture is given colours that nothing in it tells of."""
    return decision is not None and bool(decision.colour_invented)


def recaptioned(source: Source, decided: Mapping[str, Decision]) -> Source:
    """The source, with the caption that was decided in review."""
    decision = decided.get(source.pair.id)
    return dataclasses.replace(source, caption=decision.caption) if decision and decision.caption else source


def as_it_came(restored: Restored) -> Restored:
    """What a picture is whose restoration was rejected: its own pixels, of which nothing was amplified or invented."""
    decision = restored.decision
    if decision.colours:
        decision = dataclasses.replace(
            decision, fallback=1.0, colour_measured=1.0, colour_amplified=0.0, colour_invented=0.0
        )
    return dataclasses.replace(restored, pixels=restored.picture.pixels, decision=decision)


class WriteRestored(Step[Any, Row]):
    """Restored -> Row: encodes the picture as its own format, writes it atomically, measures it.

    Args:
      output: The run's output folder; pictures go to `images/` below it.
      model_sha256: The model's digest.
      max_pixels: As for decoding.
      files: How files are written.
      decided: What was decided in review, by id.
      made_by: See `identity.maker`.
    """

    stage = "write"

    def __init__(
        self,
        output: str,
        model_sha256: str,
        max_pixels: int,
        files: FileOptions = FileOptions(),
        decided: Mapping[str, Decision] | None = None,
        made_by: str = "",
    ) -> None:
        self._output, self._model_sha256, self._max_pixels, self._files = output, model_sha256, max_pixels, files
        self._made_by = made_by
        self._decided = decided or {}

    def run(self, restored: Restored) -> Row:
        """See the class."""
        decided = self._decided.get(restored.source.pair.id)
        kept = decided is not None and decided.decision in (REJECT, INPUT)
        if kept:
            restored = as_it_came(restored)
        source, sha256_in = restored.source, records.sha256(restored.source.encoded)
        height, width = restored.pixels.shape[:2]
        before, after, scores, small = self._measured(restored)
        written = self._kept(restored) if kept else self._written(restored, sha256_in)
        picture = restored.picture
        name = "images/" + codecs.output_name(source.pair.id, picture.format, picture.bits, self._files.output_format)
        self._check_place(source.pair, name)
        storage.write_bytes(storage.join(self._output, name), written.data)
        damage, origin = restored.decision.damage, restored.decision.colours
        return {
            "id": source.pair.id,
            "uri": source.pair.uri,
            "output": name,
            "format": picture.format,
            "output_format": written.format,
            "mode": picture.mode,
            "width": width,
            "height": height,
            "bits_in": picture.bits,
            "bits": written.bits,
            "caption": source.caption,
            "sha256_in": sha256_in,
            "sha256_out": records.sha256(written.data),
            "bytes_in": len(source.encoded),
            "bytes_out": len(written.data),
            "notes": "; ".join(written.notes) or None,
            **{name: getattr(restored.decision, name) for name in NUMBERS},
            "colour_class": max(origin, key=origin.__getitem__) if origin else None,
            "damage": max(damage, key=damage.__getitem__) if damage else None,
            **{f"damage_{kind}": probability for kind, probability in damage.items()},
            **{f"before_{key}": before[key] for key in QUALITY},
            **{f"after_{key}": after[key] for key in QUALITY},
            **scores,
            "model_sha256": self._model_sha256,
            "preview": previews.write(self._output, source.pair.id, small) if small else None,
            "decision": decided.decision if decided else None,
            "fingerprint": identity.fingerprint(self._made_by, source.identity, decided),
            "extra": dict(source.pair.extra),
            "finished": time.time(),  # for the summary's timeline; the table stays the same from run to run
        }

    @timing.timed(timing.MEASURE)
    def _measured(self, restored: Restored) -> tuple[Row, Row, Row, dict[str, bytes]]:
        """All that needs pixels beside the file: quality before and after, scores against a target, previews."""
        picture = restored.picture
        pixels = shown(picture, restored.pixels, restored.decision)
        small = {}
        if self._files.previews:
            small = previews.made(restored.source.encoded, picture.pixels, pixels, restored.decision.maps)
        return (
            dict(metrics.quality(picture.pixels)),
            dict(metrics.quality(pixels)),
            self._fidelity(restored, pixels),
            small,
        )

    def _kept(self, restored: Restored) -> codecs.RestoredFile:
        """The input, byte for byte; or, where another format is asked for or needed, its pixels in that."""
        picture = restored.picture
        note = "kept as it came, as was decided in review"
        written = codecs.output_format(picture.format, picture.bits, self._files.output_format)
        if written in (picture.format, "JPEG" if picture.format == "MPO" else ""):
            return codecs.RestoredFile(picture.encoded, written, picture.bits, (note, *picture.notes))
        made = codecs.restored_file(picture, picture.pixels, None, self._files.output_format)
        return dataclasses.replace(made, notes=(note, *made.notes))

    def _check_place(self, pair: Pair, name: str) -> None:
        """Makes sure that the picture is written below the output folder, and not in another picture's place."""
        place = storage.join(self._output, name)
        storage.check_place(place, self._output)
        for uri in (pair.uri, pair.target, *pair.references):
            if uri is not None and storage.is_same(uri, place):
                raise ItemFailure(
                    "OverwritesInput", f"it would be written over {uri}; give it another id, or name another --output"
                )
        added = name.removeprefix(f"images/{pair.id}")
        suffix = posixpath.splitext(pair.id)[1].lower()
        named_by_path = pair.uri.endswith(pair.id) and not pair.uri.startswith("http")
        if added and suffix in pairs.IMAGE_SUFFIXES and named_by_path and storage.exists(pair.uri + added):
            raise ItemFailure(
                "DuplicateOutput",
                f"it is no {suffix[1:]}, so it would be written as {name}, where {pair.uri + added} belongs; rename it",
            )

    def _written(self, restored: Restored, sha256_in: str) -> codecs.RestoredFile:
        stamp, caption = None, ""
        if self._files.history:
            stamp = provenance.Stamp(
                software=f"unfade {sinks.versions()['unfade']}",
                model_sha256=self._model_sha256,
                source_sha256=sha256_in,
                confidence=restored.decision.confidence,
                colours=restored.decision.colours,
                describe=self._files.describe,
                source_type=self._files.source_type,
            )
            caption = (captions.embedded_caption(restored.source.encoded) or "") if self._files.describe else ""
        picture = restored.picture
        if picture.grey and invents(restored.decision):
            picture = codecs.as_colour(picture, restored.pixels)
        values = codecs.restored_values(picture, restored.pixels, in_place=True)
        restored.give_up_pixels()
        picture = dataclasses.replace(picture, pixels=restored.pixels, values=restored.pixels)
        return codecs.file_of(picture, values, stamp, self._files.output_format, caption)

    def _fidelity(self, restored: Restored, pixels: Any) -> Row:
        if restored.source.target is None:
            return {}
        try:
            truth = isolation.decode(restored.source.target, self._max_pixels).pixels
            after, before = metrics.fidelity(pixels, truth), metrics.fidelity(restored.picture.pixels, truth)
        except ItemFailure as failure:
            raise ItemFailure(f"Target{failure.error}", f"target: {failure.message}") from failure
        except ValueError as error:
            raise ItemFailure(
                "TargetSize", f"the target cannot be compared: {error}; scale it or leave it out"
            ) from error
        return {
            **{key: after[key] for key in FIDELITY},
            **{f"input_{key}": before[key] for key in FIDELITY},
            "identical": after["identical"],
        }


def rows_to_parquet(rows: list[Row], carried: Iterable[str], schema: pa.Schema = COLUMNS) -> bytes:
    """One shard of a table, with the columns that were carried through last."""
    ours = schema.names
    for column in column_names(sorted(carried), ours).values():
        schema = schema.append(pa.field(column, pa.string()))
    return sinks.parquet_bytes([{**row, **carried_columns(row["extra"], ours)} for row in rows], schema)


def column_names(carried: Iterable[str], ours: Sequence[str] = COLUMNS.names) -> dict[str, str]:
    """Columns of the table by columns of the manifest: one that has the name of one of ours is `extra_<name>`."""
    return {name: f"extra_{name}" if name in ours else name for name in carried}


def carried_columns(extra: Mapping[str, str], ours: Sequence[str] = COLUMNS.names) -> dict[str, str]:
    """The carried columns of one item, by their names in the table."""
    return {column: extra[name] for name, column in column_names(extra, ours).items()}


def part_of_table(rows: list[Row]) -> bytes:
    """Rows as they come, as a table of their own."""
    return rows_to_parquet(rows, {name for row in rows for name in row["extra"]})


class Union(beam.CombineFn):
    """The names of all carried columns."""

    def create_accumulator(self) -> frozenset[str]:
        return frozenset()

    def add_input(self, names: frozenset[str], row: Row) -> frozenset[str]:
        return names if names.issuperset(row["extra"]) else names | set(row["extra"])

    def merge_accumulators(self, accumulators: Iterable[frozenset[str]]) -> frozenset[str]:
        return frozenset().union(*accumulators)

    def extract_output(self, names: frozenset[str]) -> list[str]:
        return sorted(names)


class Timeline(beam.CombineFn):
    """How many pictures were finished in every `SECONDS`: [[start in Unix seconds, pictures], ...], no empty ones.

    Of the Unix seconds at which each was.
    """

    SECONDS = 10

    def create_accumulator(self) -> dict[int, int]:
        return {}

    def add_input(self, counts: dict[int, int], finished: float) -> dict[int, int]:
        start = int(finished) // self.SECONDS * self.SECONDS
        counts[start] = counts.get(start, 0) + 1
        return counts

    def merge_accumulators(self, accumulators: Iterable[dict[int, int]]) -> dict[int, int]:
        merged: dict[int, int] = {}
        for counts in accumulators:
            for start, count in counts.items():
                merged[start] = merged.get(start, 0) + count
        return merged

    def extract_output(self, counts: dict[int, int]) -> list[list[int]]:
        return [[start, count] for start, count in sorted(counts.items())]


def pixels(row: Row) -> int:
    """How many the picture has."""
    return int(row["width"] * row["height"])


Sums = dict[str, tuple[float, int]]
"""By column: the sum of its values, and how many there are."""


def sums(table: pa.Table) -> Sums:
    """The sums of every numeric column of rows that has a value, and of `pixels`."""
    pixels = pc.multiply(table["width"], table["height"])
    columns = {**{name: table[name] for name in _REAL}, "pixels": pixels}
    return {
        name: (float(pc.sum(column).as_py()), len(column) - column.null_count)
        for name, column in columns.items()
        if column.null_count < len(column)
    }


class Means(beam.CombineFn):
    """Sums of parts of a table -> means by column, each with the number of its values."""

    def create_accumulator(self) -> Sums:
        return {}

    def add_input(self, so_far: Sums, part: Sums) -> Sums:
        return self.merge_accumulators([so_far, part])

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        merged: Sums = {}
        for part in accumulators:
            for column, (value, number) in part.items():
                total, count = merged.get(column, (0.0, 0))
                merged[column] = (total + value, count + number)
        return merged

    def extract_output(self, so_far: Sums) -> Sums:
        return {column: (total / count, count) for column, (total, count) in sorted(so_far.items())}
