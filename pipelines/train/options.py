"""From options on the command line to the settings and the folder of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dreamtune.errors import ConfigError
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.plain_yaml import parse_yaml, read_yaml
from dreamtune.training.config import TrainConfig

RUNS = Path("runs")
"""Default folder of runs."""


def train_config(
    options: Mapping[str, Any], settings: Sequence[str], recipe: Path | None = None, resume: Path | None = None
) -> TrainConfig:
    """The settings: those of `recipe` or of the run to `resume`, then `options`, then KEY=VALUE `settings`.

    Raises ConfigError and RunFolderError.
    """
    if resume is not None:
        if recipe is not None:
            raise ConfigError("a run is resumed with its own settings: omit --config")
        recorded = RunFolder(resume).read_config()
        values = {name: getattr(recorded, name) for name in recorded.model_fields_set}
    else:
        values = read_yaml(recipe) if recipe is not None else {}
    values |= options
    for text in settings:
        _put(values, text)
    return TrainConfig.from_mapping(values, source=str(recipe)) if recipe is not None else TrainConfig(**values)


def _put(values: dict[str, Any], text: str) -> None:
    """Set KEY=VALUE, the value as in YAML; KEY.NAME=VALUE sets an entry of a mapping and leaves the others."""
    key, equals, value = text.partition("=")
    key, dot, entry = key.strip().partition(".")
    if not equals or not key or (dot and not entry):
        raise ConfigError(f"--set {text}: use KEY=VALUE, e.g. --set batch_size=2")
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text}: the value is not valid YAML: put it in quotes") from None
    if not dot:
        values[key] = parsed
        return
    mapping = values.get(key) or {}
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"--set {text}: {key} is {mapping!r}, which has no entries: set {key} itself")
    values[key] = {**mapping, entry: parsed}


def run_folder(config: TrainConfig, name: str | None, out: Path | None, resume: Path | None) -> Path:
    """The run's folder: the one to resume, `out`, or runs/`name`, by default named after images and method.

    Raises ConfigError for contradictions, and for a name that is no plain folder name.
    """
    if sum(given is not None for given in (name, out, resume)) > 1:
        raise ConfigError("--name, --out and --resume all set the run folder: use only one of them")
    place = resume or out
    if place is not None:
        return place
    if name is not None and (name in ("", ".", "..") or Path(name).name != name):
        raise ConfigError(f"--name {name!r} must be a plain folder name; for a path use --out")
    return RUNS / (name or f"{config.images.resolve().name}-{config.method}")
