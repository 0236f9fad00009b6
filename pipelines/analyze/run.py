"""From adapter files to a report on the directions they change, and on how much they interfere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamtune.adapters import Adapter, Delta
from dreamtune.adapters.patterns import Matcher
from dreamtune.adapters.svd import default_store
from dreamtune.analysis import Layer, predictions, study
from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.models import Base, load_base
from dreamtune.pipelines.adapter_ref import AdapterRef, base_name, drawn_by
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.analyze.effects import effects
from dreamtune.pipelines.analyze.recording import record
from dreamtune.pipelines.analyze.report import Report, write_report
from dreamtune.pipelines.analyze.study import AdapterInfo, Trajectory, block_of
from dreamtune.pipelines.output import check_new_folder, complete
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress
from dreamtune.pipelines.train.directions_log import read_directions

Runs = Mapping[str, Mapping[int, Mapping[str, Tensor]]]
"""Run folder -> step -> layer -> its leading directions."""


@shows_progress
def analyze(config: AnalyzeConfig, out: str | Path | None = None, on_progress: OnProgress = on_stderr) -> Report:
    """Study the adapters, and write report.html, report.json and the figures into the new folder `out` if it is given.

    Singular vectors of the base's weights are computed once and kept in the cache. Nothing is written until everything
    has been measured. Progress goes to `on_progress`, else to stderr.

    Raises ConfigError (also when `out` is not empty, or no two adapters have a layer in common), AdapterFileError,
    BaseModelError, IncompatibleModelError and RunFolderError for bad input.
    """
    began = time.monotonic()
    folder = None if out is None else Path(out).expanduser()
    uses, runs, chosen = check(config, folder)
    base = _load_base(config, uses)
    layers, gains = _study(config, uses, base, chosen, on_progress)
    remarks = [remark for use in uses for remark in use.remarks]
    interference = None
    if config.interference or config.timestep_profile:
        interference = record(config, uses, base, gains, on_progress)
        remarks += interference.remarks
    together = {}
    if config.interference:
        together = effects(uses, base, on_progress, config.steps, config.seed, config.any_base)
    report = Report(
        base=base.id,
        top_k=config.top_k,
        adapters=tuple(_info(config, index, use, chosen) for index, use in enumerate(uses)),
        layers=tuple(layers),
        interference=interference,
        timestep_profile=config.timestep_profile,
        trajectories=tuple(_trajectories(runs, layers, len(uses), config.top_k)),
        remarks=tuple(remarks),
        seconds=time.monotonic() - began,
        together=together,
    )
    for remark in remarks:
        on_progress(Progress("remark", message=remark))
    if folder is not None:
        with complete(folder) as temporary:
            temporary.mkdir()
            write_report(temporary, report)
    return report


def check(config: AnalyzeConfig, folder: Path | None) -> tuple[list[AdapterRef], Runs, list[str]]:
    """Check everything that needs no base: adapters, runs to compare with, and the layers to be studied.

    Raises what :func:`analyze` does.
    """
    if folder is not None:
        check_new_folder(folder)
    uses = _load_all(config)
    runs = {run: read_directions(Path(run).expanduser()) for run in config.trajectories}
    return uses, runs, _choose(config, uses)


def _trajectories(runs: Runs, layers: Sequence[Layer], adapters: int, top_k: int) -> Iterator[Trajectory]:
    """Every run against every adapter."""
    for run, steps in runs.items():
        for number in range(adapters):
            true = {layer.name: layer.seen[number].leading for layer in layers if number in layer.seen}
            yield Trajectory(Path(run).expanduser().resolve().name, number, predictions(steps, true, top_k))


def _load_all(config: AnalyzeConfig) -> list[AdapterRef]:
    if config.subjects and len(config.subjects) != len(config.adapters):
        raise ConfigError(
            f"{len(config.subjects)} subjects for {len(config.adapters)} adapters: set one for each, in the same order"
        )
    uses = [AdapterRef.load(text) for text in config.adapters]
    for use in uses:
        if not use.as_trained:
            raise ConfigError(f"{use.path}: adapters are compared at strength 1; use the file name alone")
        if not use.file.layers:
            raise ConfigError(f"{use.path} contains only embeddings and changes no layer: there is nothing to analyze")
    return uses


def _info(config: AnalyzeConfig, index: int, use: AdapterRef, chosen: Sequence[str]) -> AdapterInfo:
    path, subject, file = use.path, config.subjects[index] if config.subjects else None, use.file
    with torch.device("meta"):
        blanks = [file.blank(layer) for layer in chosen if layer in file.layers]
    return AdapterInfo(
        file=path.name,
        name=subject or use.name,
        method=file.method,
        parameters=sum(tensor.numel() for blank in blanks for tensor in blank.state_dict().values()),
        needs_base=any(blank.uses_weight for blank in blanks),
        class_word=file.class_word,
        seed=file.training.get("seed"),
        subject=subject,
        sha256=use.digest,
    )


def _choose(config: AnalyzeConfig, uses: list[AdapterRef]) -> list[str]:
    """Paths of the layers to be studied, in the order of the files. Raises ConfigError if there are none."""
    paths = list(dict.fromkeys(path for use in uses for path in use.file.layers))
    matcher = Matcher("layers")
    matcher.check(config.layers)
    chosen = [
        p for p in paths if matcher.found(config.layers, p) and (not config.blocks or block_of(p) in config.blocks)
    ]
    if not chosen:
        raise ConfigError(
            f"layers and blocks select none of the {len(paths)} layers: relax them; the first layer is {paths[0]}"
        )
    if len(uses) > 1 and not any(sum(path in use.file.layers for use in uses) > 1 for path in chosen):
        names = " and ".join(use.path.name for use in uses)
        raise ConfigError(f"{names} have no layer in common: there is nothing to compare; analyze them one by one")
    for path in chosen:
        shapes = {use.file.layers[path].shape: use for use in uses if path in use.file.layers}
        if len(shapes) > 1:
            told = ", ".join(f"{out}x{inside} in {use.path.name}" for (out, inside), use in shapes.items())
            raise ConfigError(
                f"the adapters are for different bases (layer {path} is {told}): use adapters of one base"
            )
    return sorted(chosen, key=lambda path: ("text", "down", "mid", "up").index(block_of(path)))


def _load_base(config: AnalyzeConfig, uses: list[AdapterRef]) -> Base:
    """The common base of all, in fp32, checked to fit."""
    name = base_name(uses) if config.base == "auto" else config.base

    base = drawn_by(load_base(name, config.device, local=config.base == "auto"), uses)
    for use in uses:
        use.check(base, config.any_base)
    return base


def _study(
    config: AnalyzeConfig, uses: list[AdapterRef], base: Base, chosen: list[str], on_progress: OnProgress
) -> tuple[list[Layer], dict[str, dict[int, Tensor]]]:
    """The layers, and layer -> number of an adapter -> gain of its change; only one layer at a time is held in full."""
    store, layers, gains = default_store(), [], {}
    adapters = [use.file.adapters() for use in uses]
    weights = {path: weight for use in uses for path, weight in use.file.weights(base.parts).items()}
    for done, path in enumerate(chosen, 1):
        weight = weights[path]
        here = {number: own[path] for number, own in enumerate(adapters) if path in own}
        changes = {number: _change(adapter, weight, uses[number], path) for number, adapter in here.items()}
        terms = {number: adapter.terms(weight) for number, adapter in here.items()}
        layers.append(study(path, weight, store.full(weight), changes, config.top_k, terms))
        if config.interference or config.timestep_profile:
            gains[path] = {number: change.gain for number, change in changes.items()}
        on_progress(Progress("analyze", done, len(chosen)))
    return layers, gains


def _change(adapter: Adapter, weight: Tensor, use: AdapterRef, path: str) -> Delta:
    try:
        with torch.no_grad():
            return Delta.of_adapter(adapter, weight).checked()
    except AdapterFileError as error:
        raise AdapterFileError(f"{use.path}: layer {path}: {error}") from None
