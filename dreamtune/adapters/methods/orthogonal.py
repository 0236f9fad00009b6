"""LoRA on frozen rows of one orthogonal basis (Orthogonal Adaptation, Po et al., arXiv 2312.02432): ΔW = s·BA.

A (r, in) is a block of rows of an orthogonal matrix that all adapters share, and only B (out, r) is trained. Adapters
of different slots, and equal rank, never read the same direction of the input: ΔWⱼ Aᵢᵀ = 0, so that their sum changes
nothing in what each makes of its own directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamtune.errors import ConfigError

from ..base import Adapter, MethodConfig, scaled


@dataclass(frozen=True)
class OrthogonalConfig(MethodConfig):
    """Options of orthogonal LoRA."""

    slot: int = 0
    """Which block of `rank` rows of the basis to use: adapters to be fused need the same rank and different slots."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.slot < 0:
            raise ConfigError(f"slot = {self.slot} must be at least 0")


class Orthogonal(Adapter):
    """`down` is the frozen A, stored with the adapter, and `up` the trained B, zero at first."""

    config_class = OrthogonalConfig
    config: OrthogonalConfig
    scaled_tensor = "up"
    down: Tensor

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features)
        last = in_features // config.rank - 1
        if self.config.slot > last:
            raise ConfigError(
                f"slot = {self.config.slot} is outside a layer of {out_features}x{in_features}: "
                f"with rank = {config.rank} use at most {last}"
            )
        self.register_buffer("down", torch.zeros(config.rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, config.rank))

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """Take the slot's rows of the basis, whatever the seed: it must be one for all adapters."""
        rank, slot = self.config.rank, self.config.slot
        self.down.copy_(basis_rows(self.in_features, slot * rank, (slot + 1) * rank))
        self.up.zero_()

    def delta_weight(self, weight: Tensor) -> Tensor:
        """s·BA."""
        up, down = self.low_rank(weight)
        return up @ down

    def low_rank(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(sB, A)."""
        return scaled(self.config.scale, self.up), self.down


def basis_rows(size: int, start: int, stop: int) -> Tensor:
    """Rows `start` up to `stop` (stop - start, size) fp64 of the orthogonal matrix that all adapters share.

    The cosine transform of `size` points, its columns with random signs and its rows in random order: known in closed
    form, so that every machine has the same one, and spread over all inputs, as no direction is to be better than
    another.
    """
    generator = torch.Generator().manual_seed(size)
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    frequencies = torch.randperm(size, generator=generator)[start:stop].double()
    points = torch.arange(size, dtype=torch.float64) + 0.5
    rows = torch.cos(math.pi / size * frequencies[:, None] * points) * math.sqrt(2 / size)
    rows[frequencies == 0] = 1 / math.sqrt(size)
    return rows * signs
