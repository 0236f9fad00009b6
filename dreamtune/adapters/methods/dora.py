"""DoRA (Liu et al., arXiv 2402.09353): W' = m ⊙ (W + s·BA)/‖W + s·BA‖ by output row, ΔW = W' − W."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base import MethodConfig, ParameterOptions, scaled
from .decompose import Decomposable
from .lora import initialize_factors, start_factors


@dataclass(frozen=True)
class DoRAConfig(MethodConfig):
    """Options of DoRA."""

    by_input: bool = False
    """One magnitude per input instead of one per output, as older versions of LyCORIS have it."""


class DoRA(Decomposable):
    """`down` and `up` are LoRA's A and B, `magnitude` (out,) the paper's m, ‖W‖ at first.

    As in the paper the norm is a constant for the gradient. A bias is not scaled. ΔW has full rank.
    """

    config_class = DoRAConfig
    config: DoRAConfig
    partial_gradient = True
    starts_anywhere = True
    scaled_tensor = "up"

    def __init__(self, config: DoRAConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features, decompose=True, by_input=config.by_input)
        self.down = nn.Parameter(torch.empty(config.rank, in_features))
        self.up = nn.Parameter(torch.empty(out_features, config.rank))

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """A and B as LoRA's, m = ‖W‖."""
        initialize_factors(self.up, self.down, generator)
        self.initialize_magnitude(weight)

    @torch.no_grad()
    def start_at(self, weight: Tensor, up: Tensor, down: Tensor) -> None:
        """As LoRA, with m = ‖W + ΔW‖, which then changes nothing more."""
        start_factors(self.up, self.down, up / self.config.scale, down)
        self.start_magnitude(weight, up @ down)

    def change(self) -> Tensor:
        """s·BA."""
        return scaled(self.config.scale, self.up) @ self.down

    def factors(self) -> tuple[Tensor, Tensor]:
        """(sB, A)."""
        return scaled(self.config.scale, self.up), self.down

    def parameter_options(self) -> dict[str, ParameterOptions]:
        """`up` is B."""
        return super().parameter_options() | {"up": ParameterOptions(is_up=True)}
