"""LoRA (Hu et al., arXiv 2106.09685): ΔW = s·BA with A (r, in), B (out, r)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base import Adapter, MethodConfig, ParameterOptions, scaled


@dataclass(frozen=True)
class LoRAConfig(MethodConfig):
    """Options of LoRA."""


class LoRA(Adapter):
    """`down` is the paper's A, Kaiming-uniform at first, and `up` its B, zero at first."""

    config_class = LoRAConfig
    starts_anywhere = True
    scaled_tensor = "up"

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features)
        self.down = nn.Parameter(torch.empty(config.rank, in_features))
        self.up = nn.Parameter(torch.empty(out_features, config.rank))

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """A uniform within ±1/√in (Kaiming with a = √5, as the reference and PEFT), B = 0."""
        initialize_factors(self.up, self.down, generator)

    @torch.no_grad()
    def start_at(self, weight: Tensor, up: Tensor, down: Tensor) -> None:
        """B and A are the factors; columns of B beyond them stay zero and rows of A as they were."""
        start_factors(self.up, self.down, up / self.config.scale, down)

    def delta_weight(self, weight: Tensor) -> Tensor:
        """s·BA."""
        up, down = self.low_rank(weight)
        return up @ down

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(sB, A); with the usual s = 1 without a copy that the backward pass would have to keep."""
        return scaled(self.config.scale, self.up), self.down

    def parameter_options(self) -> dict[str, ParameterOptions]:
        """`up` is B."""
        return {"up": ParameterOptions(is_up=True)}


@torch.no_grad()
def initialize_factors(up: Tensor, down: Tensor, generator: torch.Generator) -> None:
    """Start a product up @ down of up (out, r), down (r, in) at zero: `down` uniform within ±1/√in, `up` zero."""
    bound = 1 / math.sqrt(down.shape[1])
    down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))
    up.zero_()


@torch.no_grad()
def start_factors(own_up: Tensor, own_down: Tensor, up: Tensor, down: Tensor) -> None:
    """Start a product after :func:`initialize_factors` at up @ down, of no larger rank."""
    own_up[:, : up.shape[1]] = up.to(own_up)
    own_down[: len(down)] = down.to(own_down)
