"""`train --dry-run`: what a training would do and how much time, memory and disk it would take."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dreamtune.data.encode import Example
from dreamtune.data.prior import picture_time_ids, prior_examples
from dreamtune.leftovers import temporary_folder
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.preflight import preflight
from dreamtune.pipelines.train.prepared import Prepared
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.loop import fit
from dreamtune.training.trainer import RunFiles, StepRecord

PROBE_STEPS = 2
"""Optimizer steps of the probe; the first includes setup, so the last one counts as the time per step."""


@dataclass(frozen=True)
class PlanResult:
    """What is known about a training before it starts."""

    run: Path
    """The folder it would write; nothing is there yet."""
    config: TrainConfig
    """Every setting, presets filled in."""
    base: str
    family: str
    device: str
    pictures: int
    skipped: tuple[str, ...]
    """Names of images that would be left out."""
    buckets: tuple[tuple[int, int, int], ...]
    """Width, height and number of images of each shape, mirrored ones counted too, the most frequent first."""
    captions: int
    """Different prompts of these images, without the empty one."""
    class_pictures: int
    """Class images for prior preservation; 0 if there is none, or if it needs none."""
    composites: int
    """Images of the subject beside other things; 0 without `compose`."""
    batch: int
    """Subject images per optimizer step: batch_size times gradient_accumulation_steps."""
    steps_per_epoch: float
    """Optimizer steps until each image has been seen once."""
    epochs: float
    """How often each image is seen."""
    scale: float
    """What the trained change is multiplied by: alpha/rank, or alpha/√rank with rslora."""
    layers: int
    parameters: int
    """Trainable parameters."""
    seconds_per_step: float
    """Of the probe's last step."""
    seconds: float
    """All steps at that speed, without loading, encoding, class images and sample images."""
    memory: int
    """Bytes: peak of the device's memory during the probe; on the CPU of the whole process until its end."""
    disk: int
    """Bytes that the run folder would take: checkpoints, one more while it is written, the adapter, samples."""
    cache: int
    """Bytes that latents and class images take in the cache at most."""
    disk_free: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {
            "run": str(self.run),
            "config": self.config.model_dump(mode="json"),
            "skipped": list(self.skipped),
            "buckets": [{"width": width, "height": height, "pictures": count} for width, height, count in self.buckets],
        }


@shows_progress
def plan(config: TrainConfig, out: str | Path, on_progress: OnProgress = on_stderr) -> PlanResult:
    """Check all that `train` checks, take two real optimizer steps on random latents, and write nothing.

    Only singular vectors, where a method needs them, stay in the cache: the training finds them there. The probe's
    checkpoint goes to a temporary folder; its size is that of the training's.

    Raises what :func:`~dreamtune.pipelines.train.run.train` raises for bad input, and TrainingError when the device's
    memory is not enough or the loss is NaN.
    """
    folder = RunFolder(out)
    prepared = preflight(config, folder, False, on_progress)
    config, subject, base = prepared.config, prepared.subject, prepared.base
    data = _random_data(prepared)
    prepared.release()
    with temporary_folder() as temporary:
        seconds, checkpoint = _probe(prepared, data, temporary, on_progress)
    examples = len(data.subjects)
    batch = config.batch_size * config.gradient_accumulation_steps
    sizes = Counter(photo.crop.size for photo in subject.photos)
    method = config.method_config()
    return PlanResult(
        run=folder.path,
        config=config,
        base=base.id,
        family=base.family,
        device=str(base.device),
        pictures=len(subject.photos),
        skipped=subject.skipped,
        buckets=tuple((*size, count * (2 if config.flip else 1)) for size, count in sizes.most_common()),
        captions=len(subject.prompts),
        class_pictures=len(data.prior),
        composites=len(data.composites),
        batch=batch,
        steps_per_epoch=examples / batch / (1 - config.compose),
        epochs=config.steps * batch * (1 - config.compose) / examples,
        scale=method.scale,
        layers=len(prepared.attached.adapters),
        parameters=sum(parameter.numel() for parameter in prepared.attached.parameters()),
        seconds_per_step=seconds,
        seconds=seconds * config.steps,
        memory=_peak_memory(str(base.device)),
        disk=_run_size(prepared, checkpoint),
        cache=sum(4 * example.latent.numel() for example in (*data.subjects, *data.composites))
        + sum(prepared.other_shares.values()) * 7 * subject.resolution**2
        + sum(4 * example.latent.numel() + 3 * subject.resolution**2 for example in data.prior),
        disk_free=shutil.disk_usage(_existing(folder.path)).free,
    )


def _random_data(prepared: Prepared) -> TrainingData:
    """Data with the training's own shapes, masks and prompts, but noise for latents, so that nothing is encoded."""
    config, base, subject = prepared.config, prepared.base, prepared.subject
    generator = torch.Generator().manual_seed(config.seed)
    channels = base.unet.config["in_channels"]

    def noise(width: int, height: int) -> torch.Tensor:
        return torch.randn(channels, height // base.factor, width // base.factor, generator=generator)

    prompts = {prompt: row for row, prompt in enumerate(subject.prompts)}
    subjects: list[Example] = []
    for mirrored in (False, True) if config.flip else (False,):
        for photo, captions in zip(subject.photos, subject.captions, strict=True):
            mask = None if photo.mask is None else torch.from_numpy(photo.mask.copy())
            rows = tuple(prompts[caption] for caption in captions)
            subjects.append(Example(noise(*photo.crop.size), rows, mask, photo.crop.time_ids(mirrored)))
    side = subject.resolution
    composites = tuple(
        Example(noise(side, side), prepared.composed_rows(it), None, picture_time_ids(side))
        for it in prepared.composites
    )
    texts = prepared.texts
    rows = {texts.index(prompt): count for prompt, count in config.prior_shares.items()} if config.prior else {}
    prior: tuple[Example, ...] = ()
    if config.prior_from == "pictures":
        for row, count in rows.items():
            prior += prior_examples(torch.stack([noise(side, side)] * count), row, side)
    return TrainingData(
        tuple(subjects),
        prior,
        tuple(prepared.read(texts)),
        texts,
        class_prompt=None if prior or not rows else next(iter(rows)),
        composites=composites,
        empty=prepared.empty,
    )


def _probe(prepared: Prepared, data: TrainingData, folder: Path, on_progress: OnProgress) -> tuple[float, int]:
    """Seconds of an optimizer step, and bytes of a checkpoint with its adapter file."""
    seconds: list[float] = []

    def done(record: StepRecord) -> None:
        seconds.append(record.seconds)
        on_progress(Progress("probe", record.step, PROBE_STEPS))

    prepared.attached.strength = 1
    no_scores = {"score_every": 0, "keep": "last", "early_stop": 0}
    config = prepared.config.changed(steps=PROBE_STEPS, warmup_steps=0, checkpoint_every=0, **no_scores)
    files = RunFiles(folder, {}, lambda path: prepared.save(path / "adapter.safetensors"))
    fit(
        prepared.base.unet,
        prepared.attached,
        data,
        prepared.objective,
        config,
        files,
        conditioner=prepared.conditioner(),
        on_step=done,
    )
    return seconds[-1], sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _run_size(prepared: Prepared, checkpoint: int) -> int:
    config = prepared.config
    kept = min(config.keep_checkpoints, config.steps // config.checkpoint_every + 1 if config.checkpoint_every else 1)
    samples = config.steps // config.sample_every * max(1, len(config.sample_prompts)) if config.sample_every else 0
    adapter = sum(4 * tensor.numel() for tensor in prepared.attached.state_dict().values())
    return (kept + 1) * checkpoint + adapter + samples * 3 * prepared.subject.resolution**2


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())
