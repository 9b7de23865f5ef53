"""What `unfade evaluate` compares: baselines and models by name. Loads no TensorFlow, so bad names are told at once."""

from __future__ import annotations

import dataclasses
import re

from transforms.baselines import BASELINES
from transforms.items import UsageError

ASKED = ("no_caption", "wrong_caption", "no_reference")
"""How else a model is asked: without its caption; with another picture's; without related pictures."""

PARTS = ("no_field", "no_curves", "no_chroma", "no_detail")
"""What of its answer is left out: the field, the curves, invented colours, the detail network."""

VARIANTS = ("", *ASKED, *PARTS)
"""A model as `restore` runs it, and otherwise."""

ORACLES = ("oracle", "oracle_even")
"""What the form of the correction could reach if the truth were known (`models.oracle`); the second without a field."""

INPUT = "identity"
"""The method that everything is compared with; always among the methods."""

_LABEL = re.compile(r"[A-Za-z0-9_.-]+(?==)")


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to restore a picture.

    Attributes:
      name: As in tables: a baseline's name, an oracle's, or a model's label with `:variant`.
      label: A model's label, "" for the others.
      uri: The model's SavedModel, "" for the others.
      variant: One of `VARIANTS`.
    """

    name: str
    label: str = ""
    uri: str = ""
    variant: str = ""


def place(name: str) -> tuple[int, str, int]:
    """Where a method stands in tables: baselines in their order, models by label, their variants in theirs; oracles."""
    if name in BASELINES:
        return list(BASELINES).index(name), "", 0
    if name in ORACLES:
        return len(BASELINES) + 1, "", ORACLES.index(name)
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
        if label in models or label in BASELINES or label in ORACLES or label == "baselines":
            raise UsageError(f"--model {given}: the label {label} is taken; give another, as in {label}2=SAVEDMODEL")
        models[label] = text[found.end() + 1 :] if found else text
    if not models:
        raise UsageError("--model names no SavedModel")
    return models


def parse_methods(given: str, models: dict[str, str]) -> list[Method]:
    """The methods of `--method NAME[,NAME...]`, in a fixed order, `identity` first.

    Args:
      given: Names of baselines and oracles, `baselines` for all of the former, `model` for every model,
        `model:VARIANT`, `model:all` for every way to ask it, `model:parts` for every part left out; or a model's
        label in place of `model`.
      models: SavedModels by label.

    Raises:
      UsageError: A name is unknown.
    """
    known = {name: Method(name) for name in (*BASELINES, *ORACLES)}
    groups = {"baselines": list(BASELINES)}
    sets = {"all": ("", *ASKED), "parts": ("", "no_caption", "no_reference", *PARTS)}
    for label, uri in models.items():
        names = {variant: f"{label}:{variant}" if variant else label for variant in VARIANTS}
        for variant, name in names.items():
            known[name] = Method(name, label, uri, variant)
            groups.setdefault(f"model:{variant}" if variant else "model", []).append(name)
        for several, variants in sets.items():
            groups[f"{label}:{several}"] = [names[variant] for variant in variants]
    for several in sets:
        groups[f"model:{several}"] = [name for label in models for name in groups[f"{label}:{several}"]]
    wanted = {INPUT}
    for name in filter(None, (part.strip() for part in given.split(","))):
        if name not in known and name not in groups:
            raise UsageError(f"--method {name} is unknown; one of: {', '.join([*known, *groups])}")
        wanted |= set(groups.get(name, [])) or {name}
    return [method for name, method in known.items() if name in wanted]
