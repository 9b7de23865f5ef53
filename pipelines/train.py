"""`unfade train`: prepared records -> checkpoints, logs, and a SavedModel with its scores.

Not a Beam job: one machine with its cores or GPUs. It reads the shards that `_SUCCESS` lists.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import tomllib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines import options
from pipelines.scoring import score
from transforms import codecs, metrics, records
from transforms.items import UsageError

if TYPE_CHECKING:
    from models.training import Config

DEFAULT_CONFIG = pathlib.Path(__file__).parent.parent / "models" / "configs" / "default.toml"


def _decode(encoded: bytes) -> npt.NDArray[np.uint8]:
    """Decodes for training as for serving; alpha is dropped, 16 bits become 8."""
    pixels = codecs.decode(encoded).pixels
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _difference(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    return float(metrics.mean_ciede2000(first, second))


def _detail(
    config: Config, shards: list[str], split_column: str, kept: pathlib.Path, say: Callable[[str], None]
) -> Any:
    """The detail network: trained, or as an interrupted training has left it."""
    from models.detail import Detail
    from models.detail_training import train_detail
    from models.records import read_pieces

    detail = Detail()
    detail(np.zeros((1, 16, 16, 3), np.float32))
    if kept.exists():
        detail.load_weights(kept)
        return detail
    pieces = read_pieces(shards, split_column, _decode).get("train") if config.detail.steps else None
    if pieces is not None:
        train_detail(detail, pieces, config.detail, config.seed, say)
    else:
        say("detail: not trained" + (", no photograph is large enough" if config.detail.steps else ""))
        detail.silence()
    detail.save_weights(kept)
    return detail


def _remember(config: dict[str, Any], path: pathlib.Path) -> None:
    """Writes down what a training was started with; refuses to resume it with anything else."""
    if path.exists():
        started = json.loads(path.read_text())
        changed = [name for name in config if started.get(name) != json.loads(json.dumps(config[name]))]
        if changed:
            raise UsageError(
                f"{path.parent} holds a training with another {', '.join(changed)}; go on with its settings"
                f" ({path.name}), or name another --output"
            )
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _parser() -> options.Parser:
    parser = options.Parser(
        prog="unfade train", description="Trains the generator on prepared records.", allow_abbrev=False
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="folder that `unfade prepare` wrote")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the model; an interrupted training in it goes on"
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file (default: the one of the shipped generator)")
    parser.add_argument(
        "--split_column",
        default="split",
        metavar="NAME",
        help="manifest column that says train or validation; without it a tenth is held out (default %(default)s)",
    )
    parser.add_argument(
        "--objective", choices=("cnn", "gan"), help="instead of the configuration's: a loss alone, or a critic as well"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="instead of the configuration's")
    return parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; see the module. Returns its exit status."""
    given = _parser().parse_args(list(argv))

    from models.training import Config

    config_path = pathlib.Path(given.config) if given.config else DEFAULT_CONFIG
    try:
        config = Config.read(config_path.read_text(), steps=given.steps, objective=given.objective)
    except FileNotFoundError:
        raise UsageError(f"--config {config_path} does not exist") from None
    except (tomllib.TOMLDecodeError, ValueError, TypeError) as error:
        raise UsageError(f"--config {config_path}: {error}") from None
    shards = records.shards_in(given.input)

    from models import calibration, hardware
    from models.export import TransformGraph, export
    from models.records import read_photographs
    from models.training import Trainer

    output = pathlib.Path(given.output)
    output.mkdir(parents=True, exist_ok=True)
    photographs = read_photographs(shards, given.split_column, _decode)
    print("records: " + ", ".join(f"{len(found)} {split}" for split, found in sorted(photographs.items())), flush=True)
    for split in ("train", "validation"):
        if not photographs.get(split):
            raise UsageError(
                f"{given.input} has no records for {split}; name a column with --split_column, or prepare more pictures"
            )
    transform = TransformGraph(str(pathlib.Path(given.input) / "transform_fn"))
    _remember(config.as_dict(), output / "config.json")

    def say(line: str) -> None:
        print(line, flush=True)

    strategy = hardware.strategy()
    if config.batch < 2 * strategy.num_replicas_in_sync:
        raise UsageError(
            f"--config {config_path}: a batch of {config.batch} is less than two pictures for each of"
            f" {strategy.num_replicas_in_sync} GPUs; make batch larger, or hide GPUs with CUDA_VISIBLE_DEVICES"
        )
    with strategy.scope():
        trainer = Trainer(config, photographs, transform.statistics, output)
        best = trainer.run(say)

    detail = _detail(config, shards, given.split_column, output / "detail.weights.h5", say)
    held_out = read_photographs(shards, given.split_column, _decode, calibration.SIDE, only="validation")["validation"]
    rows = calibration.measure(trainer.generator, detail, transform, held_out, _difference)
    fitted = calibration.fit(rows)
    say(f"calibrated on {len(rows)} aged validation pictures: {fitted}")

    saved = output / "saved_model"
    if saved.exists():
        shutil.rmtree(saved)
    export(trainer.generator, detail, transform, fitted, str(saved))
    table = score(str(saved), photographs["validation"], config.damage)
    report = {
        "validation": table,
        "best_step": best.step,
        "weights": trainer.generator.count_params() + detail.count_params(),
        "calibration": fitted._asdict(),
        "config": config.as_dict(),
    }
    (output / "validation.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(f"\n{'validation':<24}{'CIEDE2000':>10}{'PSNR':>8}{'SSIM':>8}")
    for name, means in table.items():
        print(f"{name:<24}{means['ciede2000']:>10.2f}{means['psnr']:>8.2f}{means['ssim']:>8.3f}")
    print(f"\nmodel: {saved}")
    return options.DONE


if __name__ == "__main__":
    options.main(main)
