"""From a folder of images to an adapter file: check, encode, generate class images, train, report."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.data.composites import composite_examples
from dreamtune.data.encode import prompt_conditionings, subject_examples
from dreamtune.data.prior import all_prior_latents, prior_examples
from dreamtune.errors import Interrupted
from dreamtune.models.families import USUAL
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.directions_log import DirectionsLog
from dreamtune.pipelines.train.preflight import preflight
from dreamtune.pipelines.train.prepared import Prepared
from dreamtune.pipelines.train.run_log import RunLog
from dreamtune.pipelines.train.scores import Scores
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.distributed import first_alone, wait_for_all
from dreamtune.training.loop import fit
from dreamtune.training.process import is_first, stop_on_signal
from dreamtune.training.trainer import RunFiles, StepRecord


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind."""

    adapter: Path
    run: Path
    steps: int
    """Optimizer steps in all."""
    steps_now: int
    """Optimizer steps of this call; fewer after a resume."""
    kept_step: int
    """Step whose weights the adapter has: the last, or with `keep` = best the best."""
    best_step: int | None
    """The best step by the scores; None without any that was acceptable."""
    seconds: float
    """Of this call: loading, caches, prior and training."""
    seconds_training: float
    """Of this call's steps alone."""
    final_loss: float | None
    """Mean of the last 20 steps; None if their metrics have been removed."""
    example: str
    """A prompt that calls the subject."""
    pictures: int
    skipped: tuple[str, ...]
    """Names of images that were left out."""
    files: tuple[Path, ...]
    """What the run folder holds for the user, the adapter first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "adapter": str(self.adapter),
            "run": str(self.run),
            "steps": self.steps,
            "steps_now": self.steps_now,
            "kept_step": self.kept_step,
            "best_step": self.best_step,
            "seconds": round(self.seconds, 3),
            "seconds_training": round(self.seconds_training, 3),
            "final_loss": self.final_loss,
            "pictures": self.pictures,
            "skipped": list(self.skipped),
            "files": [str(path) for path in self.files],
        }

    @classmethod
    def from_report(cls, folder: RunFolder, config: TrainConfig) -> TrainResult:
        """The result of a run as its first process wrote it down."""
        report = json.loads(folder.report.read_text(encoding="utf-8"))
        values = {field.name: report[field.name] for field in fields(cls) if field.name in report}
        values |= {"adapter": folder.adapter, "run": folder.path, "skipped": tuple(report["skipped"])}
        values |= {"files": tuple(folder.path / name for name in report["files"]), "example": _example(config)}
        return cls(**values)


def _example(config: TrainConfig) -> str:
    return config.prompt("a {token} {class} on the beach")


def load_run_config(run: str | Path) -> TrainConfig:
    """The settings of the run in folder `run`, to resume or repeat it. Raises RunFolderError or ConfigError."""
    return RunFolder(run).read_config()


@shows_progress
def train(
    config: TrainConfig,
    out: str | Path,
    resume: bool = False,
    on_progress: OnProgress = on_stderr,
    stop: threading.Event | None = None,
) -> TrainResult:
    """Train an adapter in the run folder `out`.

    Nothing is written there before settings, images, base and targets have been checked. With `resume` an
    interrupted run goes on from its newest checkpoint; its settings must be the same (see load_run_config).
    Progress goes to `on_progress`, else to stderr. `stop` may be set from another thread; SIGINT, SIGTERM and SIGHUP
    do the same when this is the main thread.

    Under `accelerate launch` each process calls this and takes its share of every step (see training.loop.fit); the
    first one speaks and writes, all return the same result.

    Raises ConfigError, DatasetError, BaseModelError and RunFolderError for bad input, TrainingError on NaN or a
    full disk, Interrupted when it was stopped and can be resumed.
    """
    began = time.monotonic()
    folder = RunFolder(out)
    if not is_first():  # under accelerate launch the first process alone speaks and writes
        on_progress = _silent
    plan = preflight(config, folder, resume, on_progress)

    wait_for_all(plan.config)  # all of them have found the folder as it was
    stop = stop or threading.Event()
    try:
        with folder.exclusive() if is_first() else nullcontext(), stop_on_signal(stop):
            return _run(plan, folder, resume, on_progress, stop, began)
    except Interrupted as error:
        raise Interrupted(f"{error}; resume with: dreamtune train --resume {folder.path}") from None


def _silent(progress: Progress) -> None:
    """Say nothing."""


def _run(
    plan: Prepared, folder: RunFolder, resume: bool, on_progress: OnProgress, stop: threading.Event, began: float
) -> TrainResult:
    config, base, attached = plan.config, plan.base, plan.attached
    if is_first():
        folder.check(resume)  # again: another training may have begun and ended here since the preflight
        folder.write_config(config)
        if plan.past and plan.past.step < config.steps:
            folder.go_on()
    with first_alone(config):
        data = _encode(plan, on_progress, stop)
    plan.release()
    attached.strength = 1
    scores, tsd = Scores(folder, plan, on_progress), DirectionsLog(folder, config, attached)

    def add_files(checkpoint: Path) -> None:
        plan.save(checkpoint / folder.adapter.name)
        scores.add_files(checkpoint)

    files = RunFiles(folder.checkpoints, plan.contents, add_files)
    started = time.monotonic()
    with RunLog(folder, config, plan.drawing, attached, on_progress) as log:

        def on_start(step: int) -> None:
            log.start(step)
            scores.start(step)
            tsd.start(step)

        def on_step(record: StepRecord) -> None:
            log.step(record)
            scores.step(record)
            tsd.step(record)

        steps_now = fit(
            base.unet,
            attached,
            data,
            plan.objective,
            config,
            files,
            conditioner=plan.conditioner(),
            resume=resume,
            on_start=on_start,
            on_step=on_step,
            on_method=log.method,
            stop=stop,
            early_stop=scores.early_stop,
        )
    finished = time.monotonic()
    if not is_first():
        wait_for_all(config)
        return TrainResult.from_report(folder, config)
    agreement = tsd.finish()
    scores.finish()
    samples = sorted(folder.samples.glob("*.png")) if folder.samples.is_dir() else []
    result = TrainResult(
        adapter=folder.adapter,
        run=folder.path,
        steps=scores.done,
        steps_now=steps_now,
        kept_step=scores.kept,
        best_step=None if scores.best is None else scores.best.step,
        seconds=finished - began,
        seconds_training=finished - started,
        final_loss=folder.final_loss(),
        example=_example(config),
        pictures=len(plan.subject.photos),
        skipped=plan.subject.skipped,
        files=(folder.adapter, folder.report, folder.config, folder.metrics, *scores.files(), *samples),
    )
    folder.write_text(folder.report, json.dumps(_report(plan, result) | agreement, indent=2) + "\n")
    wait_for_all(config)
    return result


def _encode(plan: Prepared, on_progress: OnProgress, stop: threading.Event) -> TrainingData:
    """Latents and embeddings, from the cache where they are there, else computed. Raises Interrupted."""
    config, base, subject = plan.config, plan.base, plan.subject

    def follow(phase: str, what: str) -> Callable[[int, int], None]:
        def done_so_far(done: int, total: int) -> None:
            on_progress(Progress(phase, done, total))
            if stop.is_set():
                raise Interrupted(f"stopped after {done} of {total} {what}, which are kept")

        return done_so_far

    subjects = subject_examples(base, subject, config.flip, on_progress=follow("latents", "latents"))
    texts = plan.texts
    prompts = tuple(prompt_conditionings(base, texts))

    def drawn(shares: Mapping[str, int], what: str) -> dict[str, Tensor]:
        return all_prior_latents(
            base,
            shares,
            subject.resolution,
            steps=config.sampling_steps,
            guidance=config.guidance,
            on_progress=follow("prior", what),
        )

    predicted = config.prior and config.prior_from == "prediction"
    prior = () if predicted or not config.prior else drawn(config.prior_shares, "class images").items()
    composites = ()
    if plan.composites:
        asked = {thing: USUAL[base.family].prompt("", thing) for thing in plan.other_shares}
        others = drawn({asked[thing]: count for thing, count in plan.other_shares.items()}, "images of other things")
        composites = composite_examples(
            base,
            plan.composites,
            {thing: others[prompt] for thing, prompt in asked.items()},
            plan.composed_rows,
            subject.resolution,
            on_progress=follow("latents", "composites"),
        )
    return TrainingData(
        subjects,
        tuple(it for text, own in prior for it in prior_examples(own, texts.index(text), subject.resolution)),
        prompts,
        texts,
        class_prompt=texts.index(config.prior_prompts[0]) if predicted else None,
        composites=composites,
        empty=plan.empty,
    )


def _report(plan: Prepared, result: TrainResult) -> dict[str, Any]:
    """report.json: the result with paths relative to the run folder, and what was remarked on the images."""
    return result.to_dict() | {
        "adapter": result.adapter.name,
        "run": result.run.name,
        "files": [path.relative_to(result.run).as_posix() for path in result.files],
        "base": plan.base.id,
        "method": plan.config.method,
        "remarks": [str(remark) for remark in plan.subject.remarks],
        "seconds_per_step": round(result.seconds_training / max(1, result.steps_now), 5),
    }
