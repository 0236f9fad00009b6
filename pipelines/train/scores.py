"""Scores of a run while it trains: the curve, the best weights, and early stopping."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

from dreamtune.data.subject import Subject
from dreamtune.errors import ConfigError, GenerationError, RunFolderError
from dreamtune.evaluation import (
    BestStep,
    Evaluation,
    Judge,
    Measurement,
    Sampling,
    Score,
    default_prompts,
    load_judge,
    reference_pictures,
)
from dreamtune.models import Base
from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.curve_figure import draw_curve
from dreamtune.pipelines.train.prepared import Prepared
from dreamtune.storage import atomic
from dreamtune.training import rng
from dreamtune.training.config import TrainConfig
from dreamtune.training.trainer import StepRecord

PROMPTS = 8
"""Prompts (places) that a score generates images for, with the subject and with its class."""


def find_judge(config: TrainConfig, base: Base, subject: Subject) -> Judge | None:
    """The judge of the run's images; None without scores.

    Raises ConfigError if there is no judge for the base, or only one photo, which does not show how similar real images
    are to each other.
    """
    if not config.score_every:
        return None

    if len(subject.photos) < 2:
        raise ConfigError("score_every needs at least two images of the subject: add more, or omit it")
    return load_judge(base.id, base.device, config.dino, config.clip)


class Scores:
    """Listener of the training loop. Without `score_every` it only writes the adapter at the end.

    Images use their own seeds and the random state is restored, so that the weights are bit for bit those of a training
    without scores. The best adapter is stored as soon as it is the best, and each checkpoint gets a copy: after a
    resume everything is as it was at the checkpoint.
    """

    def __init__(self, folder: RunFolder, plan: Prepared, on_progress: OnProgress) -> None:
        """No image is generated before the first score."""
        self.folder, self.plan, self.config, self.on_progress = folder, plan, plan.config, on_progress
        self.early_stop = threading.Event()
        """Set when `early_stop` ends the training."""
        self.done = 0
        """Steps of the run so far."""
        self.kept = 0
        """The step whose weights are the adapter; known after :meth:`finish`."""
        self.best_step_so_far = BestStep()
        self._scores: list[Score] = []
        self._exam: Evaluation | None = None

    @property
    def best(self) -> Score | None:
        """The best step so far."""
        return self.best_step_so_far.best

    def start(self, step: int) -> None:
        """The loop starts after `step` steps: later scores of an interrupted run are dropped.

        Raises RunFolderError when scores up to there are missing.
        """
        self.done = step
        if not self.config.score_every:
            return
        try:
            scores = [Score.from_dict(line) for line in self.folder.read_lines(self.folder.curve)]
        except (KeyError, TypeError):  # a line that is none of ours
            scores = []
        self._scores = [score for score in scores if score.step <= step]
        due = {n for n in range(1, step + 1) if self._is_due(n)}  # beside what was the last step of a shorter run
        if not due <= {score.step for score in self._scores}:
            raise RunFolderError(
                f"{self.folder.curve} is not what it was at step {step}: restore it, or start a new run"
            )
        self.best_step_so_far = BestStep(self._scores)
        self._write_curve()
        stored = self.folder.checkpoints / f"step-{step:06d}" / self.folder.best.name
        if stored.is_file():
            self._copy(stored, self.folder.best)
        else:
            self.folder.best.unlink(missing_ok=True)
        self._stop_if_enough()

    def step(self, record: StepRecord) -> None:
        """Score the weights after this step, if it is time to."""
        self.done = record.step
        if not self._is_due(record.step):
            return

        began = time.monotonic()
        try:
            with rng.seeded(self.config.seed):
                measured = self._examine()
            score = Score.of(record.step, measured)
            self._save_pictures(record.step, measured)
        except GenerationError as error:  # the next pictures may come out better, and training is not to blame
            score = Score.missing(record.step)
            self.on_progress(Progress("remark", message=f"no score at step {record.step}: {error}"))
        better = self.best_step_so_far.add(score)
        if better:  # before the curve says so
            with self.folder.writing(self.folder.best):
                self.plan.save(self.folder.best, step=record.step)
        self._scores.append(score)
        self._write_curve()
        seconds = time.monotonic() - began
        self.on_progress(
            Progress("remark", message=f"{score}{', the best so far' if better else ''} ({seconds:.1f} s)")
        )
        self._stop_if_enough()

    def add_files(self, checkpoint: Path) -> None:
        """Put the best adapter so far into a checkpoint."""
        if self.best is not None:
            shutil.copyfile(self.folder.best, checkpoint / self.folder.best.name)

    def finish(self) -> None:
        """Write the adapter that is kept, and the figure of the curve."""
        if self.config.keep == "best" and self.best is not None:
            self.kept = self.best.step
            self._copy(self.folder.best, self.folder.adapter)
        else:
            self.kept = self.done
            with self.folder.writing(self.folder.adapter):
                self.plan.save(self.folder.adapter)
        if self.config.keep == "best" and self.best is None:
            self.on_progress(Progress("remark", message="no step was acceptable (see curve.png): keeping the last one"))
        if self._scores:
            with self.folder.writing(self.folder.curve_figure):
                draw_curve(self.folder.curve_figure, self._scores, self.best)

    def files(self) -> list[Path]:
        """The files of the scores."""
        return [path for path in (self.folder.best, self.folder.curve, self.folder.curve_figure) if path.exists()]

    def _is_due(self, step: int) -> bool:
        """At every `score_every`-th step, and at the last one."""
        every = self.config.score_every
        return bool(every) and (step % every == 0 or step == self.config.steps)

    def _examine(self) -> Measurement:
        config, plan = self.config, self.plan
        if self._exam is None:
            assert plan.judge is not None and config.resolution is not None, "seen to by the preflight"
            self._exam = Evaluation(
                plan.drawing,
                plan.attached,
                plan.judge,
                reference_pictures(plan.subject),
                default_prompts(config.token, config.class_word, PROMPTS),
                # Half the steps tell good from bad as well, and cost half.
                Sampling(config.resolution, max(1, config.sampling_steps // 2), config.guidance, config.seed),
            )
        return self._exam.measure()

    def _save_pictures(self, step: int, measured: Measurement) -> None:
        named, bare = f"{self.config.token} {self.config.class_word}", self.config.class_word
        rows = {named: measured.pictures_after, bare: measured.pictures_class}
        self.folder.save_picture(self.folder.samples / f"score-{step:06d}.png", sheet(rows))

    def _copy(self, source: Path, target: Path) -> None:
        with self.folder.writing(target), atomic(target) as temporary:
            shutil.copyfile(source, temporary)

    def _write_curve(self) -> None:
        text = "".join(json.dumps(score.to_dict()) + "\n" for score in self._scores)
        self.folder.write_text(self.folder.curve, text)

    def _stop_if_enough(self) -> None:
        if self.best_step_so_far.exhausted(self.config.early_stop) and self.done < self.config.steps:
            self.early_stop.set()
            message = f"no improvement in {self.best_step_so_far.waited} scores: stopped early after step {self.done}"
            self.on_progress(Progress("remark", message=message))
