"""One training in several processes: each computes a share of every step, only the first one writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast
from torch import Tensor, nn

from dreamtune.errors import TrainingError

from .config import TrainConfig
from .process import is_alone, is_first

PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which draws class pictures and samples while they do."""


@contextmanager
def accelerated(config: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator of our own; accelerate keeps its state in the process, so it is cleared afterwards."""
    _forget_state()
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
        cpu=config.device == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        _forget_state()


def _forget_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def wait_for_all(config: TrainConfig) -> None:
    """Return when every process of the training has come here. Raises TrainingError if another one has ended."""
    if is_alone():
        return
    try:
        with accelerated(config) as accelerator:
            accelerator.wait_for_everyone()
    except RuntimeError:  # the connection is lost
        raise TrainingError("another process of this training has exited: see its output") from None


@contextmanager
def first_alone(config: TrainConfig) -> Iterator[None]:
    """The first process runs the block, then the others do, who find in the caches what it made."""
    if not is_first():
        wait_for_all(config)
    yield
    if is_first():
        wait_for_all(config)


def mean(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The mean of `values` over all processes."""
    return cast(Tensor, accelerator.reduce(values, "mean")) if accelerator.num_processes > 1 else values


def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes, in one message.

    Not torch's DistributedDataParallel: a method may begin to train a parameter at some step, which all processes
    reach together.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = mean(accelerator, torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, averaged in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def equalize(accelerator: Accelerator, module: nn.Module) -> None:
    """Give all processes the first one's parameters and buffers: other hardware may have computed others."""
    if accelerator.num_processes > 1:
        for tensor in module.state_dict().values():
            tensor.copy_(cast(Tensor, broadcast(tensor.detach().clone())))


def any_process(accelerator: Accelerator, value: bool) -> bool:
    """Whether `value` is true in any process."""
    if accelerator.num_processes == 1:
        return value
    return bool(mean(accelerator, torch.tensor(float(value), device=accelerator.device)) > 0)
