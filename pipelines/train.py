"""`unfade train`: prepared records -> checkpoints, logs, and a SavedModel with its scores.

Not a Beam job: one machine with its cores or GPUs. It reads the shards that `_SUCCESS` lists.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines import options
from pipelines.scoring import score
from transforms import codecs, metrics, records, run_lock, storage
from transforms.guard import in_worker
from transforms.items import UsageError
from transforms.storage_access import check_access

if TYPE_CHECKING:
    from models.training import Config

DEFAULT_CONFIG = pathlib.Path(__file__).parent.parent / "models" / "configs" / "default.toml"


def _decode(encoded: bytes) -> npt.NDArray[np.uint8]:
    """Decodes for training as for serving; alpha is dropped, 16 bits become 8."""
    pixels = codecs.decode(encoded).pixels
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _difference(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    return float(metrics.mean_ciede2000(first, second))


def _weights_of(model: str) -> tuple[list[npt.NDArray[Any]], str]:
    """Weights of a model that `train` wrote, and its digest.

    Raises:
      UsageError: It is none.
    """
    from models.loading import load_folder
    from models.vetting import ModelError, digest
    from transforms.inference import local_model

    folder = local_model(model)
    try:
        weights = getattr(load_folder(folder), "weights", None)
    except (ModelError, OSError) as error:
        raise UsageError(f"--initial {model} cannot be used: {error}") from error
    if not weights:
        raise UsageError(f"--initial {model} was not written by `unfade train`")
    return [weight.numpy() for weight in weights], digest(folder)


def _begin(networks: Sequence[Any], weights: list[npt.NDArray[Any]], model: str) -> None:
    """Puts weights into networks, one after the other."""
    variables = [variable for network in networks for variable in network.weights]
    if [tuple(variable.shape) for variable in variables] != [weight.shape for weight in weights]:
        raise UsageError(
            f"--initial {model} has networks of another size or version; train with the width and colour_width"
            " that it was trained with, or without --initial"
        )
    for variable, weight in zip(variables, weights, strict=True):
        variable.assign(weight)


def _train_detail(
    detail: Any,
    config: Config,
    shards: list[str],
    split_column: str,
    kept: pathlib.Path,
    begun: bool,
    say: Callable[[str], None],
) -> None:
    """Trains the detail network, or takes what an interrupted training has left of it.

    Args:
      detail: Built.
      config: Its part for the network is `config.detail`; without steps what was begun with stays, else it is silent.
      shards: Of the records.
      split_column: See `read_pieces`.
      kept: Where its weights are kept.
      begun: Whether it has another model's weights.
      say: Told one line now and then.
    """
    from models.detail_training import train_detail
    from models.records import read_pieces

    if kept.exists():
        detail.load_weights(kept)
        return
    if begun and not config.detail.steps:
        return
    pieces = read_pieces(shards, split_column, _decode).get("train") if config.detail.steps else None
    if pieces is not None:
        train_detail(detail, pieces, config.detail, config.seed, say)
    else:
        say("detail: not trained" + (", no photograph is large enough" if config.detail.steps else ""))
        detail.silence()
    detail.save_weights(kept)


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
    parser.add_argument(
        "--input", required=True, metavar="DIR", help="folder that `unfade prepare` wrote, local or gs://"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="folder for the model, local or gs:// (written there when training ends); an interrupted training in it"
        " goes on",
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
    parser.add_argument(
        "--initial",
        metavar="MODEL",
        help="model that `unfade train` wrote, local or gs://, whose weights training begins with, such as the shipped"
        " models/default (default: random weights)",
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
    check_access(given.input)
    records.read_success(given.input)  # before anything is fetched
    with run_lock.hold(given.output), _of_this_machine(given.input, given.output) as (source, output):
        return _train(given, config, config_path, source, output)


@contextlib.contextmanager
def _of_this_machine(source: str, output: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Both folders as folders of this machine: TensorFlow is to need no way of its own into a bucket.

    Records are fetched, and so is what an output in a bucket holds; what has become of that is written back in the end,
    however the training ends, if it is not killed.
    """
    with tempfile.TemporaryDirectory(prefix="unfade-train-") as fetched:
        records_here, output_here = source, output
        if storage.is_remote(source):
            records_here = f"{fetched}/records"
            print(f"fetching the records of {source}", flush=True)
            for uri in [storage.join(source, records.SUCCESS), *records.shards_in(source)]:
                in_worker(storage.copy)(uri, storage.join(records_here, uri.rpartition("/")[2]))
            in_worker(storage.copy_tree)(storage.join(source, "transform_fn"), f"{records_here}/transform_fn")
        if not storage.is_remote(output):
            yield records_here, pathlib.Path(output)
            return
        check_access(output, write=True)
        output_here = f"{fetched}/output"
        before = storage.listing(output.rstrip("/"), "**")
        in_worker(storage.copy_tree)(output, output_here)
        try:
            yield records_here, pathlib.Path(output_here)
        finally:
            in_worker(storage.copy_tree)(output_here, output)
            kept = {path[len(output_here) :] for path in storage.listing(output_here, "**")}
            storage.delete([uri for uri in before if uri[len(output.rstrip("/")) :] not in kept])
            print(f"written to {output}", flush=True)


def _train(
    given: argparse.Namespace, config: Config, config_path: pathlib.Path, source: str, output: pathlib.Path
) -> int:
    shards = records.shards_in(source)

    from models import calibration, hardware
    from models.detail import Detail
    from models.export import TransformGraph, export
    from models.records import read_photographs
    from models.training import Trainer

    output.mkdir(parents=True, exist_ok=True)
    photographs = read_photographs(shards, given.split_column, _decode)
    print("records: " + ", ".join(f"{len(found)} {split}" for split, found in sorted(photographs.items())), flush=True)
    for split in ("train", "validation"):
        if not photographs.get(split):
            raise UsageError(
                f"{given.input} has no records for {split}; name a column with --split_column, or prepare more pictures"
            )
    transform = TransformGraph(f"{source}/transform_fn")
    weights, digest = _weights_of(given.initial) if given.initial else (None, None)
    _remember({**config.as_dict(), "initial": digest}, output / "config.json")

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
        detail = Detail()
        detail(np.zeros((1, 16, 16, 3), np.float32))
        if weights:
            _begin((trainer.generator, detail), weights, given.initial)
            trainer.average_anew()
        best = trainer.run(say)

    _train_detail(detail, config, shards, given.split_column, output / "detail.weights.h5", weights is not None, say)
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
        "initial": digest,
    }
    (output / "validation.json").write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    print(f"\n{'validation':<24}{'CIEDE2000':>10}{'PSNR':>8}{'SSIM':>8}")
    for name, means in table.items():
        print(f"{name:<24}{means['ciede2000']:>10.2f}{means['psnr']:>8.2f}{means['ssim']:>8.3f}")
    print(f"\nmodel: {storage.join(given.output, 'saved_model')}")
    return options.DONE


if __name__ == "__main__":
    options.main(main)
