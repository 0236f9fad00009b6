"""The DreamBooth loop: cached latents in, a trained adapter out, nothing but the UNet in between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from dreamtune.errors import Interrupted, RunFolderError, TrainingError
from dreamtune.training import checkpoints, losses, rng
from dreamtune.training.config import TrainConfig
from dreamtune.training.sampler import Sampler
from dreamtune.training.schedules import lr_factor

if TYPE_CHECKING:
    from dreamtune.adapters import AttachedAdapter
    from dreamtune.models.base import PredictionType


@dataclass(frozen=True)
class TrainingData:
    """All that the loop sees of pictures and prompts; CPU tensors, fp32."""

    latents: Tensor
    """(n, c, h, w) scaled latents of the subject's pictures."""
    embeddings: Tensor
    """(n, tokens, dim), the prompt of each."""
    prior_latents: Tensor | None = None
    """(m, c, h, w) of the class pictures, or None without prior preservation."""
    prior_embedding: Tensor | None = None
    """(1, tokens, dim), the class prompt."""


@dataclass(frozen=True)
class Objective:
    """What the base was trained to predict, and under which noise."""

    alphas_cumprod: Tensor
    """(timesteps,)"""
    prediction_type: PredictionType
    snr_gamma: float | None = None


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did."""

    step: int
    """1 for the first."""
    loss: float
    subject_loss: float
    prior_loss: float | None
    lr: float
    grad_norm: float
    seconds: float
    remarks: tuple[str, ...] = ()
    """What the method did before it, beside training, in words."""


@dataclass(frozen=True)
class RunFiles:
    """Where the loop keeps checkpoints and what they must agree with on resume."""

    checkpoints: Path
    identity: Mapping[str, Any]
    add_files: Callable[[Path], None] | None = None
    """Writes more files into each checkpoint, for example the adapter file."""


def fit(
    unet: nn.Module,
    attached: AttachedAdapter,
    data: TrainingData,
    objective: Objective,
    config: TrainConfig,
    files: RunFiles,
    *,
    resume: bool = False,
    on_start: Callable[[int], None] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    on_method: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Train `attached` in place up to `config.steps` and return the number of steps that this call did.

    With `resume` it continues from the newest complete checkpoint, if any; on the CPU the result is then bitwise
    that of an uninterrupted run. `on_start` is told the step it starts from, `on_step` each step, `on_method` the
    layers that are done and all of them while the method has to do something beside training. The caller's global
    random state is put back at the end.

    Raises Interrupted after a checkpoint when `stop` is set, TrainingError on a NaN or infinite loss or gradient
    (before the weights change), when memory runs out or when a checkpoint cannot be written, and RunFolderError when
    the newest checkpoint belongs to other data or another base.
    """
    stop = stop or threading.Event()
    with _accelerator(config) as accelerator, rng.seeded(config.seed):
        trainer = _Trainer(accelerator, unet, attached, data, objective, config, files)
        start = trainer.restore() if resume else 0
        if on_start:
            on_start(start)
        attached.train()
        try:
            for step in range(start, config.steps):
                record = trainer.step(step, on_method)
                done = step + 1
                if on_step:
                    on_step(record)
                last = done == config.steps
                if stop.is_set() or last or (config.checkpoint_every and done % config.checkpoint_every == 0):
                    trainer.save(done)
                if stop.is_set() and not last:
                    raise Interrupted(f"stopped after step {done} of {config.steps}; a checkpoint was written")
        except torch.OutOfMemoryError:
            raise TrainingError(
                "the device's memory is not enough: lower batch_size (and raise accumulation), or the resolution"
            ) from None
        finally:
            attached.eval()
    return config.steps - start


class _Trainer:
    """Model, optimizer and data on their device, and the step that uses them."""

    def __init__(
        self,
        accelerator: Accelerator,
        unet: nn.Module,
        attached: AttachedAdapter,
        data: TrainingData,
        objective: Objective,
        config: TrainConfig,
        files: RunFiles,
    ) -> None:
        self.accelerator, self.attached, self.config, self.files = accelerator, attached, config, files
        self.objective = objective
        device = accelerator.device
        self.unet = unet.to(device)
        self.latents, self.embeddings = data.latents.to(device), data.embeddings.to(device)
        self.prior_latents = None if data.prior_latents is None else data.prior_latents.to(device)
        self.prior_embedding = None if data.prior_embedding is None else data.prior_embedding.to(device)
        # In fp64: 1 - a would lose most of its digits where a is near 1.
        self.alphas = objective.alphas_cumprod.double().to(device if device.type != "mps" else "cpu")
        self.sampler = Sampler(
            seed=config.seed,
            batch_size=config.batch_size,
            subjects=len(data.latents),
            prior=0 if data.prior_latents is None else len(data.prior_latents),
            shape=(int(data.latents.shape[1]), int(data.latents.shape[2]), int(data.latents.shape[3])),
            timesteps=len(objective.alphas_cumprod),
        )
        self.parameters = list(attached.parameters())
        groups = attached.parameter_groups()
        self.lr_ratios = [options.lr_ratio for options in groups]
        optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "weight_decay": config.weight_decay if options.weight_decay else 0.0}
                for options, parameters in groups.items()
            ],
            lr=config.lr,
            fused=device.type in ("cpu", "cuda"),
        )
        self.optimizer = accelerator.prepare_optimizer(optimizer)

    def step(self, step: int, on_method: Callable[[int, int], None] | None) -> StepRecord:
        """One optimizer step (0 for the first): `accumulation` forward and backward passes, clip, update."""
        began = time.perf_counter()
        config, accelerator = self.config, self.accelerator
        lr = config.lr * lr_factor(step, config.steps, config.lr_schedule, config.warmup_steps)
        for group, ratio in zip(self.optimizer.param_groups, self.lr_ratios, strict=True):
            group["lr"] = lr * ratio
        remarks = tuple(self.attached.on_step(step, on_method))
        sums = [0.0, 0.0, 0.0]
        norm = 0.0
        for micro in range(config.accumulation):
            with accelerator.accumulate(self.unet):
                loss, subject, prior = self._loss(step * config.accumulation + micro)
                values = torch.stack([loss, subject, prior if prior is not None else subject]).tolist()
                self._guard("loss", values[0], step)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    norm = float(accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm) or 0.0)
                    if config.precision != "fp16":  # fp16's gradient scaler meets infinities and skips them itself
                        self._guard("gradient", norm, step)
                self.optimizer.step()
                self.optimizer.zero_grad()
            sums = [total + value / config.accumulation for total, value in zip(sums, values, strict=True)]
        prior_loss = sums[2] if self.sampler.prior else None
        return StepRecord(step + 1, sums[0], sums[1], prior_loss, lr, norm, time.perf_counter() - began, remarks)

    def _loss(self, position: int) -> tuple[Tensor, Tensor, Tensor | None]:
        draw = self.sampler.draw(position)
        device = self.latents.device
        x0, prompts = self.latents[draw.subjects], self.embeddings[draw.subjects]
        if self.prior_latents is not None and self.prior_embedding is not None:
            x0 = torch.cat([x0, self.prior_latents[draw.prior]])
            prompts = torch.cat([prompts, self.prior_embedding.expand(len(draw.prior), -1, -1)])
        noise, timesteps = draw.noise.to(device), draw.timesteps.to(device)
        a = self.alphas[draw.timesteps.to(self.alphas.device)]
        noisy = losses.add_noise(x0, noise, a)
        goal = losses.target(x0, noise, a, self.objective.prediction_type)
        with self.accelerator.autocast():
            prediction = self.unet(noisy, timesteps, prompts, return_dict=False)[0]
        errors = losses.squared_error(prediction, goal)
        if self.objective.snr_gamma is not None:
            weight = losses.min_snr_weight(a, self.objective.snr_gamma, self.objective.prediction_type)
            errors = errors * weight.to(errors)
        return losses.dreambooth_loss(errors, len(draw.subjects), self.config.prior_weight)

    def _guard(self, what: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        causes = [f"a learning rate that is too high (lr = {self.config.lr:g}; try a third of it)"]
        if self.config.precision == "fp16":
            causes.append("overflow in fp16 (try precision bf16 or fp32)")
        causes.append("a base with damaged weights")
        last = checkpoints.latest(self.files.checkpoints)
        kept = f"the checkpoint of step {last.step} is kept" if last else "no checkpoint had been written yet"
        raise TrainingError(f"the {what} became {value} at step {step + 1}; likely {', or '.join(causes)}; {kept}")

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps."""
        state = {
            "adapter": dict(self.attached.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "progress": {
                "position": step * self.config.accumulation,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            },
            "random": rng.get_state(),
        }
        checkpoints.save(
            self.files.checkpoints,
            step,
            state,
            identity=self.files.identity,
            keep=self.config.keep_checkpoints,
            add_files=self.files.add_files,
        )

    def restore(self) -> int:
        """Take up the newest complete checkpoint; return the number of steps done, 0 without one."""
        checkpoint = checkpoints.latest(self.files.checkpoints)
        if checkpoint is None:
            return 0
        for key, value in self.files.identity.items():
            if checkpoint.identity.get(key) != value:
                raise RunFolderError(
                    f"{checkpoint.path} was trained with other {key}: put the former {key} back, or start a new run"
                )
        state = checkpoint.load()
        self.attached.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["progress"]["scaler"]:
            self.accelerator.scaler.load_state_dict(state["progress"]["scaler"])
        rng.set_state(state["random"])
        return checkpoint.step


@contextmanager
def _accelerator(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator of our own; accelerate keeps its state in the process, so it is cleared afterwards."""
    _forget_state()
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
        gradient_accumulation_steps=config.accumulation,
        cpu=config.device == "cpu",
    )
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        _forget_state()


def _forget_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
