"""The DreamBooth training loop: from cached latents to a trained adapter; runs only the UNet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from torch import nn

from dreamtune.adapters import AttachedAdapter, AttachedParts
from dreamtune.errors import Interrupted, TrainingError
from dreamtune.models.device import enough_memory, exact_convolutions

from . import rng
from .config import TrainConfig
from .data import Conditioner, TrainingData
from .distributed import accelerated, any_process
from .objective import Objective
from .trainer import RunFiles, StepRecord, Trainer


def fit(
    unet: nn.Module,
    attached: AttachedAdapter | AttachedParts,
    data: TrainingData,
    objective: Objective,
    config: TrainConfig,
    files: RunFiles,
    *,
    conditioner: Conditioner | None = None,
    resume: bool = False,
    on_start: Callable[[int], None] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    on_method: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
    early_stop: threading.Event | None = None,
) -> int:
    """Train `attached` in place up to `config.steps` and return the number of steps that this call did.

    With `config.ema_decay` it then holds the average of its weights, and so it does for callbacks and files.

    With `resume` it continues from the newest complete checkpoint, if any; on the CPU the result is then bitwise
    that of an uninterrupted run. `conditioner` tells the UNet of prompts in place of the cached ones, for example with
    text encoders that are trained too. `on_start` is told the step it starts from, `on_step` each step, `on_method` the
    layers that are done and all of them while the method has to do something beside training. The caller's global
    random state is put back at the end. When a callback sets `early_stop`, training is done, whatever steps are left.

    Under `accelerate launch` every process calls this, and sees its share of the micro-batches: n processes do what
    one does with n times the accumulation. Callbacks are called, and files written, in the first process alone.

    Raises Interrupted after a checkpoint when `stop` is set, TrainingError on a NaN or infinite loss or gradient
    (before the weights change; with fp16 the gradient scaler meets those of gradients by leaving the step out), when
    memory runs out or when a checkpoint cannot be written, and RunFolderError when the newest checkpoint belongs to
    other data or another base.
    """
    stop, early_stop = stop or threading.Event(), early_stop or threading.Event()
    with accelerated(config) as accelerator, rng.seeded(config.seed), exact_convolutions():
        if not accelerator.is_main_process:
            on_start = on_step = on_method = None
        trainer = Trainer(accelerator, unet, attached, data, objective, config, files, conditioner)
        start = trainer.start(resume)
        if on_start:
            on_start(start)
        attached.train()
        done, last = start, any_process(accelerator, start >= config.steps or early_stop.is_set())
        if config.gradient_checkpointing:
            cast(Any, unet).enable_gradient_checkpointing()
        first = "" if config.gradient_checkpointing else "set gradient_checkpointing=true, "
        too_little = TrainingError(
            f"out of device memory: {first}lower batch_size (and raise gradient_accumulation_steps), "
            "or lower the resolution"
        )
        try:
            with enough_memory(too_little):
                while not last:
                    record = trainer.step(done, on_method)
                    done += 1
                    if on_step:
                        with trainer.averaged():
                            on_step(record)
                    stopping = any_process(accelerator, stop.is_set())
                    last = any_process(accelerator, done >= config.steps or early_stop.is_set())
                    if stopping or last or (config.checkpoint_every and done % config.checkpoint_every == 0):
                        trainer.save(done)
                    if stopping and not last:
                        raise Interrupted(f"stopped after step {done} of {config.steps}; a checkpoint was written")
        finally:
            attached.eval()
            if config.gradient_checkpointing:
                cast(Any, unet).disable_gradient_checkpointing()
        trainer.finish()
    return done - start
