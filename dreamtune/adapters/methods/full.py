"""Full fine-tuning of the adapted weights: every element of ΔW is trained. For research on small bases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..base import Adapter, MethodConfig


@dataclass(frozen=True)
class FullConfig(MethodConfig):
    """Options of full fine-tuning; there are no factors, so rank and alpha have no effect."""


class Full(Adapter):
    """ΔW = `change` (out, in): what the papers on small adapters compare with, as LoRA-Dash's does for its directions.

    The file is as large as the weights.
    """

    config_class = FullConfig
    starts_anywhere = True

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features)
        self.change = nn.Parameter(torch.zeros(out_features, in_features))

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """No change."""
        self.change.zero_()

    @property
    def start_rank(self) -> int:
        """Any."""
        return min(self.shape)

    @torch.no_grad()
    def start_at(self, weight: Tensor, up: Tensor, down: Tensor) -> None:
        """The change itself."""
        self.change.copy_(up @ down)

    def delta_weight(self, weight: Tensor) -> Tensor:
        """`change` itself."""
        return self.change
