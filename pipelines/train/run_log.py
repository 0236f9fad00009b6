"""What a run writes while it trains: a line of metrics per step, progress, and sample images."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dreamtune.adapters import AttachedParts
from dreamtune.models import Base
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.trackers import Trackers
from dreamtune.training.config import TrainConfig
from dreamtune.training.trainer import StepRecord

SMOOTH = 20
"""Losses are shown and reported as the mean of this many steps: a single one is too noisy."""


class Pace:
    """Steps per second, and the time left."""

    def __init__(self, steps: int) -> None:
        """steps: of the whole training."""
        self.steps = steps
        self._seconds: deque[float] = deque(maxlen=SMOOTH)
        self._first, self._began, self._stepping = 0, time.monotonic(), 0.0

    def start(self, step: int) -> None:
        """Start timing after `step` earlier steps, whose speed says nothing about this machine now."""
        self._first, self._began = step, time.monotonic()

    def step(self, step: int, seconds: float) -> tuple[float, float]:
        """Steps per second, and seconds left, after `step` steps of which the last took `seconds`.

        Uses the median of the last steps, so that a pause within one, such as LoRA-Dash's launch, does not count.
        Time between steps (samples, checkpoints) is assumed to continue as in this call.
        """
        self._seconds.append(seconds)
        self._stepping += seconds
        usual = max(statistics.median(self._seconds), 1e-9)
        between = max(0.0, time.monotonic() - self._began - self._stepping) / (step - self._first)
        return 1 / usual, (self.steps - step) * (usual + between)


class RunLog:
    """Listener of the training loop; use as a context manager."""

    def __init__(
        self, folder: RunFolder, config: TrainConfig, base: Base, attached: AttachedParts, on_progress: OnProgress
    ) -> None:
        self.folder, self.config, self.on_progress = folder, config, on_progress
        self.base, self.attached = base, attached
        self._file: IO[str] | None = None
        self._losses: deque[float] = deque(maxlen=SMOOTH)
        self._pace = Pace(config.steps)
        self._trackers: Trackers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # a full disk, told where it was met; every line is flushed by now
                self._file.close()
        if self._trackers:
            self._trackers.close()

    def start(self, step: int) -> None:
        """The loop starts after `step` steps: later lines of an interrupted run are dropped."""
        told = max((line["step"] for line in self.folder.read_metrics()), default=0)
        self.folder.cut_metrics(step)
        self._trackers = Trackers(self.folder, self.config, told)
        with self.folder.writing(self.folder.metrics):
            self._file = open(self.folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
        if step:
            self.on_progress(Progress("remark", message=f"resumed after step {step}"))
        self._pace.start(step)

    def step(self, record: StepRecord) -> None:
        """Write one step down. Raises TrainingError when the disk is full."""
        assert self._file is not None and self._trackers is not None, "start comes first"
        line = {
            "step": record.step,
            "loss": record.loss,
            "subject_loss": record.subject_loss,
            "prior_loss": record.prior_loss,
            "lr": record.lr,
            "grad_norm": record.grad_norm if math.isfinite(record.grad_norm) else None,  # JSON has no infinity
            "seconds": round(record.seconds, 6),
        }
        if record.remarks:
            line["remarks"] = list(record.remarks)
        with self.folder.writing(self.folder.metrics):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._trackers.numbers(record.step, {f"train/{name}": value for name, value in line.items() if name != "step"})
        for remark in record.remarks:
            self.on_progress(Progress("remark", message=remark))
        self._losses.append(record.loss)
        rate, left = self._pace.step(record.step, record.seconds)
        loss = sum(self._losses) / len(self._losses)
        self.on_progress(
            Progress("train", record.step, self.config.steps, loss=loss, per_second=rate, seconds_left=left)
        )
        if self.config.sample_every and record.step % self.config.sample_every == 0:
            self._draw(record.step)

    def method(self, done: int, total: int) -> None:
        """The method has work to do between two steps, for `total` layers."""
        self.on_progress(Progress(self.config.method, done, total))

    def _draw(self, step: int) -> None:
        """One image of each sample prompt, from the same noise at every step."""
        config = self.config
        assert config.resolution is not None and self._trackers is not None, "filled in by preflight and start"
        self.attached.eval()
        for index, template in enumerate(config.sample_prompts or (config.instance_prompt,)):
            latents = self.base.draw(
                [config.prompt(template)],
                [config.seed + index],
                size=config.resolution,
                steps=config.sampling_steps,
                guidance=config.guidance,
            )
            if latents.isfinite().all():
                picture = self.base.to_pictures(latents)[0]
                self.folder.save_picture(self.sample_path(step, index), picture)
                self._trackers.picture(step, f"samples/{index}", picture)
            else:
                self.on_progress(
                    Progress("remark", message=f"the sample of step {step} came out as NaN and was skipped")
                )
        self.attached.train()

    def sample_path(self, step: int, index: int) -> Path:
        """File of the image of sample prompt `index` after `step` steps."""
        return self.folder.samples / f"step-{step:06d}-{index}.png"
