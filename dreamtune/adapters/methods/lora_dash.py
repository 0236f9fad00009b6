"""LoRA-Dash (Si et al., arXiv 2409.01035): LoRA that later also trains along task-specific directions of W."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from dreamtune.errors import ConfigError

from ..base import MethodConfig, ParameterOptions
from ..svd import Svd, default_store
from .lora import LoRA

EPSILON = 1e-6
"""Of the paper's equation for the rate of change."""


@dataclass(frozen=True)
class LoRADashConfig(MethodConfig):
    """Options of LoRA-Dash."""

    launch_step: int = 100
    """Optimizer steps as plain LoRA before the directions are chosen (the paper's t)."""
    directions: int = 8
    """Number of directions per layer (the paper's s); all of a layer's if it has fewer."""
    dash_lr_ratio: float = 10.0
    """Learning rate of the directions' Δσ as a multiple of lr. Adam moves every parameter by about lr per step. Along
    one direction that moves B's column by lr·√out and ΔW by lr·√(out/3), since A's rows have length 1/√3, but Δσ only
    by lr. 10 = √(320/3) lets Δσ keep pace with LoRA in the narrowest layers of Stable Diffusion. The paper's own code
    uses one rate for all, which is 1 here."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.launch_step < 0:
            raise ConfigError(f"launch_step = {self.launch_step} must be at least 0")
        if self.directions < 1:
            raise ConfigError(f"directions = {self.directions} must be at least 1")
        if not (isfinite(self.dash_lr_ratio) and self.dash_lr_ratio > 0):
            raise ConfigError(f"dash_lr_ratio = {self.dash_lr_ratio} must be positive and finite")

    trained_by = (*MethodConfig.trained_by, "launch_step", "dash_lr_ratio")

    def too_short(self, steps: int) -> str | None:
        """Whether it would never launch."""
        if steps > self.launch_step:
            return None
        return (
            f"LoRA-Dash launches after launch_step = {self.launch_step} steps, but there are only {steps}: it would "
            f"stay plain LoRA; set method_options.launch_step, e.g. to {steps // 4}, or train longer"
        )


class LoRADash(LoRA):
    """ΔW = s·BA + Σ Δσₖ ūₖ v̄ₖᵀ; the sum only after the launch, bit for bit LoRA before.

    `delta_sigma` (d,) is the paper's Δσ, zero until the launch; the buffers `left` (d, out), `right` (d, in), `sigma`
    and `indices` (d,) hold the chosen ū, v̄, their σ and their places in the spectrum of W, and `launched` is 1 after
    the launch. All of them are state: nothing is chosen again when a training is resumed or a file is read. alpha/rank
    scales BA alone.
    """

    config_class = LoRADashConfig
    config: LoRADashConfig
    left: Tensor
    right: Tensor
    sigma: Tensor
    indices: Tensor
    launched: Tensor

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features)
        count = min(self.config.directions, out_features, in_features)
        self.delta_sigma = nn.Parameter(torch.zeros(count))
        self.register_buffer("left", torch.zeros(count, out_features))
        self.register_buffer("right", torch.zeros(count, in_features))
        self.register_buffer("sigma", torch.zeros(count))
        self.register_buffer("indices", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("launched", torch.zeros((), dtype=torch.int64))
        self._is_launched = False  # `launched` as Python has it: reading a tensor on a GPU would wait for it
        self.register_load_state_dict_post_hook(_follow_state)

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """As LoRA, not launched."""
        super().initialize(weight, generator)
        for tensor in (self.delta_sigma, self.left, self.right, self.sigma, self.indices, self.launched):
            tensor.zero_()
        self._is_launched = False

    def delta_weight(self, weight: Tensor) -> Tensor:
        """s·BA, after the launch + leftᵀ diag(delta_sigma) right."""
        up, down = self.low_rank(weight)
        return up @ down

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """[sB, Ū diag(Δσ)] (out, r + d) and [A; V̄ᵀ] (r + d, in): plain LoRA; (sB, A) before the launch."""
        ups, downs = zip(*self.terms(weight).values(), strict=True)
        return (ups[0], downs[0]) if len(ups) == 1 else (torch.cat(ups, 1), torch.cat(downs))

    def terms(self, weight: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """`AB`: (sB, A), and after the launch `dash`: (Ū diag(Δσ), V̄ᵀ)."""
        terms = {"AB": super().low_rank(weight)}
        if self._is_launched:
            terms["dash"] = (self.delta_sigma[:, None] * self.left).T, self.right
        return terms

    def on_step(self, step: int, weight: Tensor) -> str | None:
        """Launch once, when `launch_step` optimizer steps have been done."""
        if self._is_launched or step < self.config.launch_step:
            return None
        self._launch(weight)
        return f"LoRA-Dash launched after {step} steps"

    def note(self) -> str:
        """Whether it has launched."""
        when = f"launch_step = {self.config.launch_step}"
        return f"launched ({when})" if self._is_launched else f"not launched, so it is plain LoRA ({when})"

    def parameter_options(self) -> dict[str, ParameterOptions]:
        """Δσ has its own learning rate. Without a gradient until the launch, its Adam moments begin there."""
        return super().parameter_options() | {"delta_sigma": ParameterOptions(lr_ratio=self.config.dash_lr_ratio)}

    @torch.no_grad()
    def _launch(self, weight: Tensor) -> None:
        svd = default_store().full(weight)
        indices = rates_of_change(svd, *super().low_rank(weight)).argsort(descending=True, stable=True)[
            : len(self.indices)
        ]
        self.left.copy_(svd.u.T[indices])
        self.right.copy_(svd.v.T[indices])
        self.sigma.copy_(svd.s[indices])
        self.indices.copy_(indices)
        self.delta_sigma.zero_()
        self.launched.fill_(1)
        self._is_launched = True


@torch.no_grad()
def core_projections(svd: Svd, up: Tensor, down: Tensor) -> Tensor:
    """uᵢᵀ ΔW vᵢ of ΔW = up @ down, up (out, r), down (r, in), with its sign: (k,), fp64 on the CPU.

    In O((out + in)·k·r): ΔW is not formed.
    """
    left = svd.u.double().T @ up.detach().cpu().double()  # (k, r)
    right = svd.v.double().T @ down.detach().cpu().double().T  # (k, r)
    return (left * right).sum(1)


@torch.no_grad()
def rates_of_change(svd: Svd, up: Tensor, down: Tensor) -> Tensor:
    """The paper's δᵢ = |uᵢᵀ ΔW vᵢ|/(σᵢ + 1e-6) of ΔW = up @ down: (k,), see :func:`core_projections`."""
    return core_projections(svd, up, down).abs() / (svd.s.double() + EPSILON)


def _follow_state(adapter: LoRADash, incompatible_keys: Any) -> None:
    """Know what the state that was loaded says about the launch."""
    adapter._is_launched = bool(adapter.launched)
