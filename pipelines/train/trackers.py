"""TensorBoard and Weights & Biases as optional listeners of a training.

Both get the numbers of metrics.jsonl and the sample images. A resumed run continues the same curves: steps that are
repeated because they came after the newest checkpoint are not logged twice.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from dreamtune.errors import ConfigError, first_line
from dreamtune.pipelines.run_folder import RunFolder

if TYPE_CHECKING:
    from dreamtune.training.config import TrainConfig

PROJECT = "dreamtune"
"""Project of the runs at Weights & Biases, unless WANDB_PROJECT names another."""


class Tracker(Protocol):
    """An experiment tracker."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Points of curves at `step`."""
        ...

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """A sample image, by the name that it has at every step."""
        ...

    def close(self) -> None:
        """Flush what is left; fine even if nothing was logged."""
        ...


def check(names: tuple[str, ...]) -> None:
    """Raise ConfigError if a tracker's package is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"trackers: cannot import {name} ({first_line(error)}): pip install {name}, or omit it; "
                "metrics.jsonl is written anyway"
            ) from None


class Trackers:
    """The trackers of a run; use from the first step to :meth:`close`."""

    def __init__(self, folder: RunFolder, config: TrainConfig, told: int) -> None:
        """Open the trackers in `config.trackers`. told: the last step that was logged before, 0 for none.

        Raises ConfigError if a tracker cannot be opened, TrainingError if its note or files cannot be written.
        """
        self.folder = folder
        self._names = config.trackers
        self._open: list[Tracker] = []
        self._told = told
        if not config.trackers:
            return
        note = self._read_note()
        self._told = max(told, note["told"])  # a second resume may find fewer metrics than the first had told of
        folder.write_text(folder.trackers, json.dumps(note | {"told": self._told}) + "\n")
        for name in config.trackers:
            with folder.writing(folder.path / name):
                self._open.append(_TRACKERS[name](folder, config, note["id"]))

    def numbers(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show those of `values` that are numbers. Raises TrainingError when the disk is full."""
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
        self._tell(step, lambda tracker: tracker.numbers(step, numbers))

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Show an image. Raises TrainingError when the disk is full."""
        self._tell(step, lambda tracker: tracker.picture(step, name, picture))

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            with contextlib.suppress(OSError):  # a full disk, told where it was met; all that was told is flushed
                self._open.pop().close()

    def _tell(self, step: int, on_progress: Callable[[Tracker], None]) -> None:
        if step <= self._told:
            return
        for name, tracker in zip(self._names, self._open, strict=True):
            with self.folder.writing(self.folder.path / name):
                on_progress(tracker)

    def _read_note(self) -> dict[str, Any]:
        if self.folder.trackers.is_file():
            return json.loads(self.folder.trackers.read_text(encoding="utf-8"))
        return {"id": secrets.token_hex(4), "told": 0}


class _TensorBoard:
    """Event files in the run folder's `tensorboard`: tensorboard --logdir runs."""

    def __init__(self, folder: RunFolder, config: TrainConfig, run: str) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder.tensorboard))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # what a checkpoint remembers must not be lost by a kill; takes under a millisecond

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        import numpy as np

        self._writer.add_image(name, np.array(picture), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run at Weights & Biases, or with WANDB_MODE=offline in the run folder's `wandb`.

    It gets what an adapter file records about its training, and nothing about this machine, its paths, code or output.
    """

    def __init__(self, folder: RunFolder, config: TrainConfig, run: str) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._image = wandb.Image
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=folder.path.name,
                id=run,
                resume="allow",
                dir=str(folder.path),
                config=config.public(),
                settings=settings,
            )
        except wandb.Error as error:
            raise ConfigError(
                f"trackers: wandb failed to start ({first_line(error)}): log in with `wandb login` or set "
                "WANDB_MODE=offline, then resume; or omit wandb"
            ) from None

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({name: self._image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[[RunFolder, TrainConfig, str], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB}
