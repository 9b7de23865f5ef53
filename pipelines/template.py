"""The Flex Template: what Dataflow's launcher runs in the image, and the metadata that describe its parameters.

    python -m pipelines.template restore > deploy/restore.json     # the metadata, made from the command's own options

The launcher knows parameters that have a value each, never flags: `overwrite=true` becomes `--overwrite` here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from models.contract import DEFAULT_MODEL
from pipelines import options

COMMANDS = {
    "restore": ("Restore photographs", "Restores the colours of photographs, from pairs or from prepared records."),
    "prepare": ("Prepare photographs", "Turns image/caption pairs into TFRecords with a transform graph."),
}

COMMAND = "command"
"""Parameter that says which command is meant; without it, `restore`."""

_BEAM = {
    "sdk_container_image": "Image of the workers (default: the one that the template was built with).",
    "number_of_worker_harness_threads": "Pictures that a process works on at a time (default: 8 with an accelerator,"
    " else 2). Fewer need less memory.",
    "disk_size_gb": "Disk of a worker in GB (default: 50).",
}

_PLACES = {
    "input": ("TEXT", r"^gs://[^/]+(/.*)?$"),
    "output": ("GCS_WRITE_FOLDER", r"^gs://[^/]+/.+$"),
    "model": ("TEXT", r"^(gs://[^/]+/.+|/.+)$"),
    "decisions": ("GCS_READ_FILE", r"^gs://[^/]+/.+$"),
    "model_sha256": ("TEXT", r"^[0-9a-f]{64}$"),
}


def metadata(command: str) -> dict[str, Any]:
    """The metadata file of a command's template, as `gcloud dataflow flex-template build --metadata-file` takes it."""
    name, description = COMMANDS[command]
    chosen = {
        "name": COMMAND,
        "label": "Command",
        "helpText": f"Which command of unfade: {command}.",
        "isOptional": command == "restore",
        "regexes": [f"^{command}$"],
        "defaultValue": command,
    }
    beams = [
        {"name": name, "label": _label(name), "helpText": text, "isOptional": True, "paramType": "TEXT"}
        for name, text in _BEAM.items()
    ]
    own = [_parameter(action) for action in _actions(command)]
    own.sort(key=lambda parameter: parameter["isOptional"])
    return {"name": f"unfade: {name}", "description": description, "parameters": [*own, chosen, *beams]}


def _classes(command: str) -> tuple[type[PipelineOptions], ...]:
    module = importlib.import_module(f"pipelines.{command}")
    own: type[PipelineOptions] = getattr(module, f"{command.capitalize()}Options")
    return (options.JobOptions, own, options.ModelOptions) if command == "restore" else (options.JobOptions, own)


def _actions(command: str) -> list[argparse.Action]:
    """The options that are the command's own, not Beam's."""
    parser = argparse.ArgumentParser(add_help=False)
    for known in _classes(command):
        known._add_argparse_args(parser)
    return list(parser._actions)


def _parameter(action: argparse.Action) -> dict[str, Any]:
    default = None if action.default in (None, False, DEFAULT_MODEL) else str(action.default)
    text = str(action.help) % {"default": default} if action.help else ""
    parameter: dict[str, Any] = {
        "name": action.dest,
        "label": _label(action.dest),
        "helpText": f"{text[:1].upper()}{text[1:]}.",
        "isOptional": action.dest not in ("input", "output"),
        "paramType": "TEXT",
    }
    if action.nargs == 0:
        parameter |= {"paramType": "BOOLEAN", "defaultValue": "false"}
    elif action.choices:
        parameter |= {"paramType": "ENUM", "enumOptions": [{"value": str(choice)} for choice in action.choices]}
    elif action.type in (int, float):
        pattern = r"^[0-9]+$" if action.type is int else r"^[0-9]+(\.[0-9]+)?$"
        parameter |= {"paramType": "NUMBER", "regexes": [pattern]}
    elif action.dest in _PLACES:
        kind, pattern = _PLACES[action.dest]
        parameter |= {"paramType": kind, "regexes": [pattern]}
    return parameter if default is None else parameter | {"defaultValue": default}


def _label(name: str) -> str:
    words = name.replace("_", " ").replace("sdk", "SDK").replace("gb", "GB").replace("sha256", "SHA-256")
    return words[:1].upper() + words[1:]


def arguments(argv: Sequence[str]) -> tuple[str, list[str]]:
    """What the launcher gives, as a command and its command line.

    Args:
      argv: Words `--name=value`, Dataflow's own among them.

    Returns:
      The command, and words without parameters that were left empty.
    """
    given = [word.partition("=") for word in argv]
    [command, *_] = [value for name, _, value in given if name == f"--{COMMAND}" and value] or ["restore"]
    own = _actions(command) if command in COMMANDS else []
    flags = {f"--{action.dest}" for action in own if action.nargs == 0}
    known = {name for action in (*own, *options.beams_parser()._actions) for name in action.option_strings}
    words = []
    for word, (name, equals, value) in zip(argv, given, strict=True):
        if name == f"--{COMMAND}" or (equals and not value):
            continue
        if own and name not in known:
            # Not refused, as elsewhere: the launcher may know options that Beam does not, and parameters are checked.
            print(f"unfade: warning: {name} is left out: neither unfade nor Beam knows it", file=sys.stderr)
        elif name in flags and value.lower() in ("true", "false"):
            words += [name] if value.lower() == "true" else []
        else:
            words.append(word)
    return command, words


def main(argv: Sequence[str] | None = None) -> None:
    """What the launcher runs."""
    command, words = arguments(sys.argv[1:] if argv is None else argv)
    if command not in COMMANDS:
        print(f"unfade: --{COMMAND} {command}: one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(options.BAD_USAGE)
    options.main(importlib.import_module(f"pipelines.{command}").main, words)


if __name__ == "__main__":
    print(json.dumps(metadata(sys.argv[1]), indent=2))
