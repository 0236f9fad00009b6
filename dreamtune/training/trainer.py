"""Model, optimizer and data on their device, one training step, and its state on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dreamtune.adapters import AttachedAdapter, AttachedParts
from dreamtune.data.encode import Example
from dreamtune.errors import RunFolderError, TrainingError

from . import checkpoints, losses, optimizers, rng
from .batches import MicroBatches, Shape
from .config import TrainConfig
from .data import CachedConditioner, Conditioner, TrainingData
from .distributed import average_gradients, equalize, mean
from .ema import Ema
from .micro_batch import NoisedBatch, join
from .objective import Objective
from .optimizers import lr_factor


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
    """Before clipping; with fp16 infinite at a step that the gradient scaler skipped."""
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


class Trainer:
    """Takes optimizer steps; all processes of a training call the same methods at the same steps."""

    def __init__(
        self,
        accelerator: Accelerator,
        unet: nn.Module,
        attached: AttachedAdapter | AttachedParts,
        data: TrainingData,
        objective: Objective,
        config: TrainConfig,
        files: RunFiles,
        conditioner: Conditioner | None = None,
    ) -> None:
        """Move the model to the device and make the optimizer. `conditioner`: what replaces the cached prompts."""
        self.accelerator, self.attached, self.config, self.files = accelerator, attached, config, files
        self.data, self.objective = data, objective
        self.unet = unet.to(accelerator.device)
        self.base_conditioner = CachedConditioner(data.prompts, accelerator.device)
        self.conditioner = conditioner or self.base_conditioner
        self.sampler = MicroBatches(
            seed=config.seed,
            batch_size=config.batch_size,
            subjects=tuple(map(_shape, data.subjects)),
            prior=tuple(map(_shape, data.prior)),
            timesteps=objective.timesteps,
            caption_dropout=config.caption_dropout,
            composites=tuple(map(_shape, data.composites)),
            compose=config.compose,
        )
        self.parameters = list(attached.parameters())
        optimizer = optimizers.build(config, attached.parameter_groups())
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.ema = Ema(self.parameters, config.ema_decay) if config.ema_decay else None

    def start(self, resume: bool) -> int:
        """The number of steps done: with `resume` those of the newest complete checkpoint, which is taken up."""
        step = self._restore() if resume else 0
        equalize(self.accelerator, self.attached)
        return step

    def step(self, step: int, on_method: Callable[[int, int], None] | None) -> StepRecord:
        """Optimizer step `step` (0, 1, ...): gradient_accumulation_steps forward and backward passes, clip, update."""
        began = time.perf_counter()
        config, accelerator = self.config, self.accelerator
        lr = config.lr * lr_factor(step, config.steps, config.lr_schedule, config.warmup_steps, config.lr_cycles)
        optimizers.set_lr(self.optimizer, lr)
        remarks = tuple(self.attached.on_step(step, on_method))
        if remarks:
            equalize(accelerator, self.attached)
        parts = []
        micro_batches = config.gradient_accumulation_steps
        for micro in range(micro_batches):
            place = (step * micro_batches + micro) * accelerator.num_processes + accelerator.process_index
            loss, subject, prior = self._loss(place)
            accelerator.backward(loss / micro_batches)
            parts.append(torch.stack([loss.detach(), subject.detach(), (subject if prior is None else prior).detach()]))
        average_gradients(accelerator, self.parameters)
        loss, subject, prior = mean(accelerator, torch.stack(parts).mean(0)).tolist()
        self._guard("loss", loss, step)
        norm = float(accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm) or 0.0)
        if config.precision != "fp16":  # fp16's gradient scaler meets infinities and skips them itself
            self._guard("gradient", norm, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update()
        seconds = time.perf_counter() - began
        return StepRecord(step + 1, loss, subject, prior if self.data.has_prior else None, lr, norm, seconds, remarks)

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the adapter is what the user is to see: the average of its weights, where one is kept."""
        return self.ema.swap() if self.ema else nullcontext()

    def finish(self) -> None:
        """Leave the adapter as the user is to have it."""
        if self.ema:
            self.ema.keep()

    def _loss(self, position: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Loss, subject's part and prior's part of the micro-batch at `position`."""
        draw = self.sampler.draw(position)
        torch.manual_seed(draw.seed)  # dropout then depends on the position alone, as all else does
        device = self.accelerator.device
        own = [(self.data.subjects, draw.subjects)] if draw.subjects.rows else []
        own += [] if draw.composites is None else [(self.data.composites, draw.composites)]
        batches = [NoisedBatch.noised(*it, self.objective, device, self.data.empty) for it in own]
        if draw.prior is not None:
            batches.append(NoisedBatch.noised(self.data.prior, draw.prior, self.objective, device))
        elif self.data.class_prompt is not None:
            batches.append(self._base_says(batches[0], self.data.class_prompt))
        errors = torch.cat([self._errors(batch) for batch in join(batches)])
        return losses.dreambooth_loss(errors, self.config.batch_size, self.config.prior_weight)

    def _base_says(self, batch: NoisedBatch, prompt: int) -> NoisedBatch:
        """The same noisy pictures under another prompt, with the base's own prediction as the goal.

        Learning without Forgetting (Li and Hoiem 2016): new data, the old model's answers to the old task as targets.
        """
        same = replace(batch, prompts=[prompt] * len(batch), mask=None)
        with torch.no_grad(), self.attached.disabled():
            return replace(same, goal=self._predict(same, self.base_conditioner).float())

    def _errors(self, batch: NoisedBatch) -> Tensor:
        prediction = self._predict(batch, self.conditioner)
        return self.objective.errors(prediction, batch.goal, batch.timesteps, batch.mask)

    def _predict(self, batch: NoisedBatch, conditioner: Conditioner) -> Tensor:
        """The UNet's prediction (n, c, h, w)."""
        with self.accelerator.autocast():
            inputs = conditioner(batch.prompts, batch.time_ids)
            return self.unet(batch.noisy, batch.timesteps.to(batch.noisy.device), **inputs, return_dict=False)[0]

    def _guard(self, what: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        causes = [f"a learning rate that is too high (lr = {self.config.lr:g}; try a third of it)"]
        if self.config.precision == "fp16":
            causes.append("an overflow in fp16 (try precision bf16 or fp32)")
        causes.append("a base with damaged weights")
        last = checkpoints.latest(self.files.checkpoints)
        kept = f"the checkpoint of step {last.step} is kept" if last else "no checkpoint was written yet"
        raise TrainingError(f"the {what} became {value} at step {step + 1}; likely {', or '.join(causes)}; {kept}")

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps, in the first process."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "adapter": {name: tensor.clone() for name, tensor in self.attached.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "progress": {
                "processes": self.accelerator.num_processes,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            },
            "random": rng.get_state(),
        }
        if self.ema:
            state["ema"] = self.ema.state_dict()
        with self.averaged():
            checkpoints.save(
                self.files.checkpoints,
                step,
                state,
                identity=self.files.identity,
                keep=self.config.keep_checkpoints,
                add_files=self.files.add_files,
            )

    def _restore(self) -> int:
        """Take up the newest complete checkpoint; return the number of steps done, 0 without one."""
        checkpoint = checkpoints.latest(self.files.checkpoints)
        if checkpoint is None:
            return 0
        for key, value in self.files.identity.items():
            if checkpoint.identity.get(key, value) != value:  # those of former versions tell less
                raise RunFolderError(
                    f"{checkpoint.path} was trained with different {key}: restore the original, or start a new run"
                )
        state = checkpoint.load()
        before, now = state["progress"]["processes"], self.accelerator.num_processes
        if before != now:  # micro-batches are dealt out by their number: some would be seen twice, others never
            raise RunFolderError(
                f"{checkpoint.path} was trained with {before} processes, not {now}: launch {before} processes"
            )
        self.attached.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["progress"]["scaler"]:
            self.accelerator.scaler.load_state_dict(state["progress"]["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        rng.set_state(state["random"])
        return checkpoint.step


def _shape(example: Example) -> Shape:
    channels, height, width = example.latent.shape
    return channels, height, width
