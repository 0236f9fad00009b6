"""What the two Spectral Adapters (Zhang & Pilanci, arXiv 2405.13952) share: a block of W's singular vectors."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dreamtune.errors import ConfigError

from ..base import Adapter, MethodConfig, ParameterOptions
from ..svd import Svd, default_store


@dataclass(frozen=True)
class SpectralConfig(MethodConfig):
    """Options of both. `rank` is the number r of columns; the scale alpha/rank multiplies the whole ΔW."""

    column_offset: int = 0
    """Which block of r columns to use, starting at column column_offset·r: several subjects' adapters can each have
    their own block."""
    part: Literal["top", "bottom"] = "top"
    """End of the spectrum from which blocks are counted: largest ("top") or smallest ("bottom") singular values."""
    train_singular_values: bool = False
    """Also train r parameters that change the block's singular values."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.column_offset < 0:
            raise ConfigError(f"column_offset = {self.column_offset} must be at least 0")
        if self.part not in ("top", "bottom"):
            raise ConfigError(f"part = {self.part!r} must be 'top' or 'bottom'")


class Spectral(Adapter):
    """The block's columns `u` (out, r), `s` (r,), `v` (in, r) of W = USVᵀ, kept as buffers, and what is trained there.

    Subclasses name the trained `left`, which changes u, and `right`, which changes v; `values` (r,) changes s. All are
    zero at first.
    """

    needs_singular_vectors: ClassVar[bool] = True
    config: SpectralConfig
    left: nn.Parameter
    right: nn.Parameter
    values: nn.Parameter | None
    u: Tensor
    s: Tensor
    v: Tensor

    def __init__(self, config: MethodConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features)
        rank, last = config.rank, min(out_features, in_features) // config.rank - 1
        if self.config.column_offset > last:
            raise ConfigError(
                f"column_offset = {self.config.column_offset} is outside a layer of {out_features}x{in_features}: "
                f"with rank = {rank} use at most {last}"
            )
        left, right = self.trained_shapes()
        self.left, self.right = nn.Parameter(torch.zeros(left)), nn.Parameter(torch.zeros(right))
        self.register_parameter(
            "values", nn.Parameter(torch.zeros(rank)) if self.config.train_singular_values else None
        )
        self.register_buffer("u", torch.zeros(out_features, rank))
        self.register_buffer("s", torch.zeros(rank))
        self.register_buffer("v", torch.zeros(in_features, rank))

    @abstractmethod
    def trained_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of `left` and `right`."""

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """Take the block from the store of singular vectors; no random values."""
        block = self._block(weight)
        self.u.copy_(block.u)
        self.s.copy_(block.s)
        self.v.copy_(block.v)
        for parameter in self.parameters():
            parameter.zero_()

    def parameter_options(self) -> dict[str, ParameterOptions]:
        """Singular values are not pulled towards W's: there are too few to overfit."""
        return {"values": ParameterOptions(weight_decay=False)} if self.values is not None else {}

    def _block(self, weight: Tensor) -> Svd:
        rank, offset, store = self.config.rank, self.config.column_offset, default_store()
        if self.config.part == "top":
            return store.top(weight, (offset + 1) * rank).columns(offset * rank, (offset + 1) * rank)
        end = min(self.shape) - offset * rank
        return store.full(weight).columns(end - rank, end)
