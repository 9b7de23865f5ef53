"""What `unfade evaluate` compares: baselines and models by name. Loads no TensorFlow, so bad names are told at once."""

from __future__ import annotations

import dataclasses
import re

from transforms.baselines import BASELINES
from transforms.items import UsageError

VARIANTS = ("", "no_caption", "wrong_caption", "no_reference")
"""How a model is asked: as `restore` asks it; without its caption; with another picture's; without related pictures."""

INPUT = "identity"
"""The method that everything is compared with; always among the methods."""

_LABEL = re.compile(r"[A-Za-z0-9_.-]+(?==)")


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to restore a picture.

    Attributes:
      name: As in tables: a baseline's name, or a model's label with `:variant`.
      label: A model's label, "" for a baseline.
      uri: The model's SavedModel, "" for a baseline.
      variant: One of `VARIANTS`.
    """

    name: str
    label: str = ""
    uri: str = ""
    variant: str = ""


def place(name: str) -> tuple[int, str, int]:
    """Where a method stands in tables: baselines in their order, then models by label, their variants in theirs."""
    if name in BASELINES:
        return list(BASELINES).index(name), "", 0
    label, _, variant = name.partition(":")
    return len(BASELINES), label, VARIANTS.index(variant)


def parse_models(given: str) -> dict[str, str]:
    """SavedModels by label, of `--model [LABEL=]SAVEDMODEL[,...]`.

    Unlabelled ones are `model`, `model2`, ... by place.

    Raises:
      UsageError: A label is given twice, or is a baseline's name.
    """
    models: dict[str, str] = {}
    for number, text in enumerate(filter(None, (part.strip() for part in given.split(","))), start=1):
        found = _LABEL.match(text)
        label = found.group() if found else "model" if number == 1 else f"model{number}"
        if label in models or label in BASELINES or label == "baselines":
            raise UsageError(f"--model {given}: the label {label} is taken; give another, as in {label}2=SAVEDMODEL")
        models[label] = text[found.end() + 1 :] if found else text
    if not models:
        raise UsageError("--model names no SavedModel")
    return models


def parse_methods(given: str, models: dict[str, str]) -> list[Method]:
    """The methods of `--method NAME[,NAME...]`, in a fixed order, `identity` first.

    Args:
      given: Names of baselines, `baselines` for all of them, `model` for every model, `model:VARIANT`, `model:all` for
        every variant; or a model's label in place of `model`.
      models: SavedModels by label.

    Raises:
      UsageError: A name is unknown.
    """
    known = {name: Method(name) for name in BASELINES}
    groups = {"baselines": list(known)}
    for label, uri in models.items():
        names = {variant: f"{label}:{variant}" if variant else label for variant in VARIANTS}
        for variant, name in names.items():
            known[name] = Method(name, label, uri, variant)
            groups.setdefault(f"model:{variant}" if variant else "model", []).append(name)
        groups[f"{label}:all"] = list(names.values())
    groups["model:all"] = [name for label in models for name in groups[f"{label}:all"]]
    wanted = {INPUT}
    for name in filter(None, (part.strip() for part in given.split(","))):
        if name not in known and name not in groups:
            raise UsageError(f"--method {name} is unknown; one of: {', '.join([*known, *groups])}")
        wanted |= set(groups.get(name, [])) or {name}
    return [method for name, method in known.items() if name in wanted]
