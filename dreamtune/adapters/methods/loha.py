"""LoHa (Yeh et al., LyCORIS, arXiv 2309.14859; Hyeon-Woo et al., FedPara, arXiv 2108.06098): ΔW = s·(B₁A₁) ⊙ (B₂A₂)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base import MethodConfig, scaled
from .decompose import Decomposable
from .lora import start_factors


@dataclass(frozen=True)
class LoHaConfig(MethodConfig):
    """Options of LoHa."""

    weight_decompose: bool = False
    """Let the change act through DoRA's weight decomposition, the norm being a constant for the gradient as there."""
    by_input: bool = False
    """With it: one magnitude per input instead of one per output, as older versions of LyCORIS have it."""


class LoHa(Decomposable):
    """`up1` (out, r), `down1` (r, in), `up2`, `down2` are the paper's B₁, A₁, B₂, A₂ (hada_w1_a, _w1_b, _w2_a, _w2_b).

    ΔW has rank r² at most; it is full when that is more than the layer has.
    """

    config_class = LoHaConfig
    config: LoHaConfig
    starts_anywhere = True
    scaled_tensor = "up1"

    def __init__(self, config: LoHaConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features, decompose=config.weight_decompose, by_input=config.by_input)
        self.up1 = nn.Parameter(torch.empty(out_features, config.rank))
        self.down1 = nn.Parameter(torch.empty(config.rank, in_features))
        self.up2 = nn.Parameter(torch.empty(out_features, config.rank))
        self.down2 = nn.Parameter(torch.empty(config.rank, in_features))

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """As LyCORIS does: normal with deviation 0.1 for B₁ and 1 for A₁ and A₂, B₂ = 0."""
        for factor, deviation in ((self.up1, 0.1), (self.down1, 1.0), (self.down2, 1.0)):
            factor.copy_(torch.empty(factor.shape).normal_(0, deviation, generator=generator))
        self.up2.zero_()
        self.initialize_magnitude(weight)

    @torch.no_grad()
    def start_at(self, weight: Tensor, up: Tensor, down: Tensor) -> None:
        """B₁A₁ is the change and B₂A₂ one everywhere."""
        self.up1.zero_()
        start_factors(self.up1, self.down1, up / self.config.scale, down)
        self.up2[:, 0], self.down2[0] = 1, 1
        self.start_magnitude(weight, up @ down)

    def change(self) -> Tensor:
        """s·(B₁A₁) ⊙ (B₂A₂)."""
        return (scaled(self.config.scale, self.up1) @ self.down1) * (self.up2 @ self.down2)

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Row-wise Kronecker products of B₁ and B₂ and of A₁ and A₂ (Khatri-Rao), of rank r², if r² is small.

        That is under a quarter of 2·out·in/(out + in): the gradients of factors of rank k take 4·k products of out or
        in numbers per token, those of the dense ΔW one of out·in.
        """
        rank, out_features, in_features = self.config.rank, self.out_features, self.in_features
        if rank**2 >= out_features * in_features / (out_features + in_features) / 2:
            return None
        up = scaled(self.config.scale, self.up1).unsqueeze(2) * self.up2.unsqueeze(1)  # (out, r, r)
        down = self.down1.unsqueeze(1) * self.down2  # (r, r, in)
        return up.flatten(1), down.flatten(0, 1)
