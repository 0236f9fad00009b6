"""Optimizers by name, with the learning rates and the weight decay of the method's parameters."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dreamtune.adapters.base import ParameterOptions
from dreamtune.errors import ConfigError

from .config import TrainConfig
from .settings import Schedule

Groups = Mapping[ParameterOptions, Sequence[nn.Parameter]]


EXTRAS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}
"""Optimizer -> the package it comes from, which is an extra of the same name."""


def check(config: TrainConfig, groups: Groups) -> None:
    """Raise ConfigError if `config` asks for an optimizer that is not installed or cannot treat these parameters.

    groups: as AttachedAdapter.parameter_groups() gives them; they may be on any device.
    """
    if config.optimizer in EXTRAS:
        _package(config.optimizer)
    if config.lora_plus_ratio != 1 and not any(options.is_up for options in groups):
        raise ConfigError(
            f"lora_plus_ratio = {config.lora_plus_ratio:g} works only for methods with LoRA's factors B and A (lora, "
            f"dora, lora-dash), not for {config.method}: set it to 1"
        )
    ratios = {_ratio(config, options) for options in groups}
    if config.optimizer == "prodigy" and len(ratios) > 1:
        raise ConfigError(
            "optimizer = 'prodigy' finds one step size for all parameters, but some have "
            f"{' and '.join(f'{ratio:g}' for ratio in sorted(ratios))} times the learning rate: set text_encoder_lr "
            "and pivotal_lr to lr, and lora_plus_ratio and dash_lr_ratio (in method_options) to 1, or use adamw"
        )


def build(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    """The optimizer of `config` for `groups`, in its order; each param_group has its `lr_ratio` (see :func:`set_lr`).

    AdamW (Loshchilov and Hutter, arXiv 1711.05101) with its fused kernel where there is one; the same with moments in
    8 bits (Dettmers et al., arXiv 2110.02861); Prodigy (Mishchenko and Defazio, arXiv 2306.06101). LoRA+ (Hayou et
    al., arXiv 2402.12354) multiplies the learning rate of LoRA's B. Raises ConfigError as :func:`check` does.
    """
    check(config, groups)
    parameters = [
        {
            "params": list(members),
            "lr_ratio": _ratio(config, options),
            "weight_decay": config.weight_decay if options.weight_decay else 0.0,
        }
        for options, members in groups.items()
    ]
    if config.optimizer == "adamw":
        fused = all(p.device.type in ("cpu", "cuda") for group in parameters for p in group["params"])
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, fused=fused)
    elif config.optimizer == "adamw8bit":
        optimizer = _package("adamw8bit").optim.AdamW8bit(parameters, lr=config.lr)
    else:
        # As its authors advise for diffusion models; the warm-up must not enter the estimate of the step size.
        optimizer = _package("prodigy").Prodigy(
            parameters, lr=config.lr, use_bias_correction=True, safeguard_warmup=config.warmup_steps > 0
        )
    set_lr(optimizer, config.lr)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of a :func:`build` optimizer its learning rate, `lr` times the group's ratio."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_ratio"]


def _ratio(config: TrainConfig, options: ParameterOptions) -> float:
    return options.lr_ratio * (config.lora_plus_ratio if options.is_up else 1.0)


def _package(optimizer: str) -> Any:
    name = EXTRAS[optimizer]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise ConfigError(
            f"optimizer = {optimizer!r} needs the package {name}, which "
            + (f"is not installed: pip install {name}" if missing else f"cannot be used here ({error})")
            + ", or use adamw"
        ) from None


def lr_factor(step: int, steps: int, kind: Schedule, warmup: int = 0, cycles: int = 1) -> float:
    """Factor on the peak learning rate for optimizer step `step` (0, 1, ..., steps - 1), never 0 within a run.

    Linear warm-up (step + 1) / (warmup + 1), then with p running from 0 to 1 at `steps`, one step after the last:
    "constant" 1, "linear" 1 - p, "cosine" (1 + cos(pi p)) / 2, and "cosine-restarts" the latter `cycles` times one
    after the other, each from 1 (Loshchilov and Hutter, arXiv 1608.03983, equation 5, with equal periods).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done, left = step - warmup, max(1, steps - warmup)
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1.0 - done / left
    if kind == "cosine-restarts":
        done = done * cycles % left  # of a cycle that takes `left` steps of 1/cycles: integers, so that it is exact
    return 0.5 * (1.0 + math.cos(math.pi * done / left))
