"""One training and its evaluation: the same data, loss, noise, steps and optimizer for every contestant."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.quality_measure import Examiner, class_latents
from benchmarks.quality_methods import Options, PeftAttached, attached_by, file_bytes
from benchmarks.quality_subjects import TOKEN, Individual, individual
from dreamtune.adapters import AttachedAdapter
from dreamtune.data.encode import Example
from dreamtune.models import Base, load_base
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.loop import fit
from dreamtune.training.objective import Objective
from dreamtune.training.trainer import RunFiles, StepRecord

SHOWN = 6
"""Pictures of each run that are kept."""
Attached = AttachedAdapter | PeftAttached


@dataclass(frozen=True)
class Settings:
    """What all runs of a plan have in common."""

    steps: int = 100
    batch_size: int = 4
    """Subject pictures per step, and as many class pictures."""
    prior_pictures: int = 32
    drawing_steps: int = 10


@dataclass(frozen=True)
class Task:
    """One run."""

    subject: str
    toolkit: str
    method: str
    options: Options
    lr: float
    seed: int
    settings: Settings
    whole: bool = True
    """Whether all figures are measured, or only those that a learning rate is chosen by."""
    token: str = TOKEN


@dataclass
class Trained:
    """An adapter on the base, and what its training took."""

    attached: Attached
    seconds: float
    cpu_seconds: float


@cache
def base_on(device: str) -> Base:
    """The embedded base, loaded once in a process."""
    return load_base("pocket", device)


@cache
def examiner(device: str, name: str, token: str, drawing_steps: int, whole: bool) -> Examiner:
    """The subject's evaluation, whose base pictures are drawn once in a process."""
    return Examiner(base_on(device), name, token, drawing_steps, whole)


def run(task: Task, device: str) -> tuple[dict[str, Any], Image.Image]:
    """Train and measure; figures as plain values and a strip of pictures."""
    base = base_on(device)
    with attached_by(base, task.toolkit, task.method, task.options, task.seed) as attached:
        trained = train(base, attached, task)
        evaluation = examiner(device, task.subject, task.token, task.settings.drawing_steps, task.whole)
        figures, pictures = evaluation.measure(attached)
        figures |= {
            "parameters": sum(parameter.numel() for parameter in attached.parameters()),
            "file_bytes": file_bytes(attached, base),
            "seconds": round(trained.seconds, 2),
            "cpu_seconds": round(trained.cpu_seconds, 2),
        }
    return figures, Image.fromarray(np.concatenate([np.asarray(it) for it in pictures[:SHOWN]], 1))


def train(
    base: Base,
    attached: Attached,
    task: Task,
    on_step: Callable[[StepRecord], None] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> Trained:
    """Train `attached` in place by dreamtune's loop; `on_start` is called when the data is there."""
    who, settings = individual(task.subject), task.settings
    data = training_data(base, who, task.token, settings.prior_pictures)
    config = TrainConfig.model_validate(
        {
            "images": Path(),
            "class_word": who.cls,
            "token": task.token,
            "steps": settings.steps,
            "batch_size": settings.batch_size,
            "lr": task.lr,
            "warmup_steps": min(10, settings.steps // 10),
            "lr_schedule": "cosine",
            "seed": task.seed,
            "device": base.device.type,
            "checkpoint_every": 0,
        }
    )
    objective = Objective.of(base.noise_scheduler().alphas_cumprod, base.prediction_type, config)
    with tempfile.TemporaryDirectory(prefix="dreamtune-") as folder:
        began, began_cpu = time.perf_counter(), time.process_time()
        files = RunFiles(Path(folder), {})
        adapter: Any = attached  # PEFT's does what the loop asks of ours
        fit(base.unet, adapter, data, objective, config, files, on_step=on_step, on_start=on_start)
        taken = time.perf_counter() - began, time.process_time() - began_cpu
    attached.eval()
    return Trained(attached, *taken)


def training_data(base: Base, who: Individual, token: str, prior_pictures: int) -> TrainingData:
    """Latents of the photographs and of class pictures that the base has drawn, with their prompts."""
    texts = (f"a {token} {who.cls}", f"a {who.cls}")
    photos = torch.stack([torch.from_numpy(np.asarray(photo, np.float32)) for photo in who.photos])
    latents = base.encode_images(photos.permute(0, 3, 1, 2) / 127.5 - 1).float().cpu()
    prior = class_latents(base, who.cls, prior_pictures)
    return TrainingData(
        subjects=tuple(Example(latent, (0,)) for latent in latents),
        prior=tuple(Example(latent, (1,)) for latent in prior),
        prompts=tuple(it.to(torch.device("cpu")) for it in base.condition(texts)),
        texts=texts,
    )
