"""The kinds of jobs: settings, checks before queueing, and how to run them. Imports nothing heavy itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dreamtune.config import Config
from dreamtune.errors import JobError
from dreamtune.pipelines.jobs.job import JobKind
from dreamtune.pipelines.progress import OnProgress, stoppable

Run = Callable[[Any, Path, OnProgress, threading.Event], object]


@dataclass(frozen=True)
class Kind:
    """One pipeline as a job."""

    config_class: type[Config]
    check: Callable[[Any, Path], object]
    """The pipeline's own checks of settings and output path that need no base; raises what the pipeline does."""
    run: Run
    """Writes to the output path. When the event is set it raises Interrupted, after a checkpoint where possible."""


def kind_of(name: str) -> Kind:
    """The kind of this name. Raises JobError."""
    if name not in get_args(JobKind):
        raise JobError(f"unknown job kind {name!r}: use one of {', '.join(get_args(JobKind))}")
    return {"train": _train, "fuse": _fuse, "analyze": _analyze, "evaluate": _evaluate}[name]()


def _train() -> Kind:
    from dreamtune.pipelines.run_folder import RunFolder
    from dreamtune.pipelines.train.options import train_config
    from dreamtune.pipelines.train.preflight import check
    from dreamtune.pipelines.train.run import train
    from dreamtune.training.config import TrainConfig

    def run(config: TrainConfig, out: Path, on_progress: OnProgress, stop: threading.Event) -> None:
        if begun := RunFolder(out).config.is_file():
            given = {name: getattr(config, name) for name in config.model_fields_set}
            config = train_config(given, [], resume=out)
        train(config, out, begun, on_progress, stop)

    return Kind(TrainConfig, lambda config, out: check(config, RunFolder(out)), run)


def _fuse() -> Kind:
    from dreamtune.pipelines.fuse.run import FuseConfig, check, fuse

    return Kind(FuseConfig, check, _stopped_at_progress(fuse))


def _analyze() -> Kind:
    from dreamtune.pipelines.analyze.config import AnalyzeConfig
    from dreamtune.pipelines.analyze.run import analyze, check

    return Kind(AnalyzeConfig, check, _stopped_at_progress(analyze))


def _evaluate() -> Kind:
    from dreamtune.pipelines.evaluate.run import EvaluateConfig, check, evaluate

    return Kind(EvaluateConfig, check, _stopped_at_progress(evaluate))


def _stopped_at_progress(flow: Callable[[Any, Path, OnProgress], object]) -> Run:
    """A pipeline that cannot stop by itself and writes only at its end: it is left at its next progress report."""

    def run(config: Any, out: Path, on_progress: OnProgress, stop: threading.Event) -> object:
        return flow(config, out, stoppable(on_progress, stop, "stopped; nothing was written"))

    return run


def read_config(kind: Kind, config: Config | Mapping[str, Any]) -> Config:
    """`config` as the kind's own settings class. Raises ConfigError for invalid settings, or JobError."""
    if isinstance(config, Mapping):
        return kind.config_class(**config)
    if not isinstance(config, kind.config_class):
        raise JobError(f"this job needs a {kind.config_class.__name__}, not a {type(config).__name__}")
    return config
