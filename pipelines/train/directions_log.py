"""The directions an adapter changes most during training: lines of tsd.jsonl, and how early they emerged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamtune.adapters import AttachedParts, Delta
from dreamtune.adapters.svd import default_store
from dreamtune.analysis import predictions, tsd
from dreamtune.errors import RunFolderError
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.training.config import TrainConfig
from dreamtune.training.trainer import StepRecord

FILE = "tsd.jsonl"
"""In the run folder; a line has a step and, for each layer of the UNet, the indices of its directions."""
K = 8
"""Directions that count as predicted; twice as many are kept, for the accuracy."""


class DirectionsLog:
    """Listener of the training loop; does nothing without `track_tsd`."""

    def __init__(self, folder: RunFolder, config: TrainConfig, attached: AttachedParts) -> None:
        self.folder, self.every, self.attached = folder, config.track_tsd, attached
        self.path = folder.path / FILE
        self._lines: list[dict[str, Any]] = []

    def start(self, step: int) -> None:
        """The loop starts after `step` steps: later lines of an interrupted run are dropped."""
        if self.every:
            self._lines = [line for line in self.folder.read_lines(self.path) if line["step"] <= step]
            self._write()

    def step(self, record: StepRecord) -> None:
        """Record the directions if they are due. Raises TrainingError when the disk is full."""
        if self.every and record.step % self.every == 0:
            self._lines.append({"step": record.step, "layers": directions(self.attached)})
            self._write()

    def finish(self) -> dict[str, Any]:
        """How far each line agrees with the adapter as it is now, for the run's report; empty without lines."""
        if not self._lines:
            return {}

        true = _tensors(directions(self.attached))
        steps = {line["step"]: _tensors(line["layers"]) for line in self._lines}
        return {"tsd": [asdict(one) for one in predictions(steps, true, K)]}

    def _write(self) -> None:
        self.folder.write_text(self.path, "".join(json.dumps(line) + "\n" for line in self._lines))


def directions(attached: AttachedParts) -> dict[str, list[int]]:
    """Layer of the UNet -> indices (≤ 16) of the directions with the largest relative change δ, in descending order."""
    store, found = default_store(), {}
    with torch.no_grad():
        for path, layer, adapter in attached.parts["unet"].layers():
            change = Delta.of_adapter(adapter, layer.base_weight)
            found[path] = tsd(store.full(layer.base_weight), change, 2 * K).tolist()
    return found


def read_directions(run: Path) -> dict[int, dict[str, Tensor]]:
    """Step -> layer -> indices, of a run with `track_tsd`. Raises RunFolderError if it has none."""
    lines = RunFolder(run).read_lines(run / FILE)
    if not lines:
        raise RunFolderError(f"{run} has no {FILE}: train with track_tsd set, e.g. --track-tsd 10")
    return {line["step"]: _tensors(line["layers"]) for line in lines}


def _tensors(layers: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: torch.tensor(indices, dtype=torch.int64) for name, indices in layers.items()}
