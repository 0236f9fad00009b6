"""LoKr (Yeh et al., LyCORIS, arXiv 2309.14859): ΔW = s·W₁ ⊗ W₂, a Kronecker product of a small and a larger matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.errors import ConfigError

from ..base import MethodConfig, scaled
from ..config import LATER
from ..linear_function import compute_dtype, exact, kronecker_linear
from ..svd import Svd
from .decompose import Decomposable


@dataclass(frozen=True)
class LoKrConfig(MethodConfig):
    """Options of LoKr."""

    factor: int = -1
    """W₁ has at most this many rows and columns; −1 makes W₁ and W₂ as equal in size as can be."""
    decompose_both: bool = False
    """Give W₁ low-rank factors too, where they are smaller than it."""
    weight_decompose: bool = False
    """Apply the change through DoRA's weight decomposition; as there, the norm is a constant for the gradient."""
    by_input: bool = False
    """With weight_decompose: one magnitude per input instead of one per output, as in older versions of LyCORIS."""
    w1_rows: int = field(default=0, metadata=LATER)
    """Rows of W₁, overriding the factor, as a file may have them; 0 takes those of the factor."""
    w1_columns: int = field(default=0, metadata=LATER)
    """Columns of W₁, likewise."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.factor < 1 and self.factor != -1:
            raise ConfigError(f"factor = {self.factor} must be at least 1, or -1 for factors of about equal size")
        for name in ("w1_rows", "w1_columns"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must be at least 0")

    def for_convolution(self, channels: int) -> Self:
        """W₁ mixes channels alone, as in LyCORIS: W₂ has whole kernels."""
        return self if self.w1_columns else replace(self, w1_columns=split(channels, self.factor)[0])


class LoKr(Decomposable):
    """`w1` (out₁, in₁), or `up1` (out₁, r) and `down1` (r, in₁); `w2` (out₂, in₂), or `up2` and `down2`.

    out = out₁·out₂ and in = in₁·in₂ are split by `split`; of a convolution's in = channels·kh·kw the channels are. A
    matrix has low-rank factors if r is under half its larger side. ΔW[a·out₂ + c, b·in₂ + d] = s·W₁[a, b]·W₂[c, d].

    s = alpha/rank acts always. LyCORIS and ComfyUI take 1 instead when both matrices are whole: what is written for
    them has s multiplied into one of the matrices.
    """

    config_class = LoKrConfig
    config: LoKrConfig
    w1: nn.Parameter
    up1: nn.Parameter
    down1: nn.Parameter
    w2: nn.Parameter
    up2: nn.Parameter
    down2: nn.Parameter

    def __init__(self, config: LoKrConfig, out_features: int, in_features: int) -> None:
        super().__init__(config, out_features, in_features, decompose=config.weight_decompose, by_input=config.by_input)
        for name, size in sizes(config, out_features, in_features).items():
            self.register_parameter(name, nn.Parameter(torch.empty(size)))
        self.scaled_tensor = "w1" if hasattr(self, "w1") else "up1"

    @property
    def max_rank(self) -> int:
        """At least the rank that leaves W₂ whole, which may be more than the layer's own."""
        (_, out2), (_, in2) = halves(self.config, *self.shape)
        return max(super().max_rank, whole_from(out2, in2))

    @torch.no_grad()
    def initialize(self, weight: Tensor, generator: torch.Generator) -> None:
        """As LyCORIS does: uniform within ±1/√columns, but `w2`, or `down2`, zero."""
        last = "w2" if hasattr(self, "w2") else "down2"
        for name, factor in self.named_parameters():
            if name == last:
                factor.zero_()
            elif name != "magnitude":
                bound = 1 / math.sqrt(factor.shape[1])
                factor.copy_(torch.empty(factor.shape).uniform_(-bound, bound, generator=generator))
        self.initialize_magnitude(weight)

    def change(self) -> Tensor:
        """s·W₁ ⊗ W₂."""
        w1, up, down = self._matrices()
        return torch.kron(w1, up if down is None else up @ down)

    def decomposition(self, weight: Tensor) -> Svd | None:
        """Without a weight decomposition that of W₁ ⊗ W₂: its singular vectors and values are Kronecker products too.

        So it takes decompositions of matrices of the size of W₁ and W₂ alone.
        """
        if self.magnitude is not None:
            return None
        (u1, s1, v1), (u2, s2, v2) = self._decompositions()
        s, order = torch.kron(s1, s2).sort(descending=True)
        u, v = _kronecker(u1, u2), _kronecker(v1, v2)
        return Svd(u[:, order], s, v[:, order])

    def singular_values(self, weight: Tensor) -> Tensor | None:
        """Without the vectors, which are as large as ΔW."""
        if self.magnitude is not None:
            return None
        (_, s1, _), (_, s2, _) = self._decompositions()
        return torch.kron(s1, s2).sort(descending=True).values

    @torch.no_grad()
    def _decompositions(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """u, s and v of s·W₁ and of W₂, fp64 on the CPU."""
        w1, *w2 = (matrix.detach().cpu().double() for matrix in self._matrices() if matrix is not None)
        found = []
        for matrix, most in ((w1, len(w1)), (reduce(torch.matmul, w2), len(w2[-1]))):
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            kept = min(len(s), most)  # of a product of rank r the others are rounding
            found.append((u[:, :kept], s[:kept], vh[:kept].T))
        return found

    def delta_output(self, x: Tensor, weight: Tensor) -> Tensor:
        """Without a decomposition in rank space: first to W₂'s rank, then W₁, then the rest of W₂."""
        if self.magnitude is not None:
            return super().delta_output(x, weight)
        w1, up, down = self._matrices()
        hidden = self.drop(x).unflatten(-1, (w1.shape[1], -1))  # (..., in₁, in₂)
        if down is not None:
            hidden = F.linear(hidden, down.to(x.dtype))  # (..., in₁, r)
        return F.linear(w1.to(x.dtype) @ hidden, up.to(x.dtype)).flatten(-2)

    def layer_output(self, x: Tensor, weight: Tensor, bias: Tensor | None, strength: float) -> Tensor:
        """With the changed weight where that is exact, otherwise in rank space too."""
        if self.magnitude is not None:
            return super().layer_output(x, weight, bias, strength)
        if self.dropping or not exact(compute_dtype(x)):
            return torch.add(F.linear(x, weight, bias), self.delta_output(x, weight), alpha=strength)
        w1, up, down = self._matrices()
        return kronecker_linear(x, weight, bias, scaled(strength, w1), up, down)

    def _matrices(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """s·W₁, and W₂ as a product of two, or as one and None."""
        if hasattr(self, "w1"):
            w1 = self.w1
        else:
            with torch.autocast(self.up1.device.type, enabled=False):
                w1 = self.up1 @ self.down1
        up, down = (self.w2, None) if hasattr(self, "w2") else (self.up2, self.down2)
        return scaled(self.config.scale, w1), up, down


def sizes(config: LoKrConfig, out_features: int, in_features: int) -> dict[str, tuple[int, int]]:
    """Name of each tensor of the product, and its size."""
    (out1, out2), (in1, in2) = halves(config, out_features, in_features)
    found: dict[str, tuple[int, int]] = {}
    for number, rows, columns, reducible in ((1, out1, in1, config.decompose_both), (2, out2, in2, True)):
        if reducible and config.rank < whole_from(rows, columns):
            found |= {f"up{number}": (rows, config.rank), f"down{number}": (config.rank, columns)}
        else:
            found[f"w{number}"] = (rows, columns)
    return found


def halves(config: LoKrConfig, out_features: int, in_features: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(out₁, out₂) and (in₁, in₂). Raises ConfigError for a W₁ whose sides do not divide the layer's."""
    for name, small, size in (
        ("w1_rows", config.w1_rows, out_features),
        ("w1_columns", config.w1_columns, in_features),
    ):
        if small and size % small:
            raise ConfigError(f"{name} = {small} does not divide a layer of {out_features}x{in_features}")
    rows = (config.w1_rows, out_features // config.w1_rows) if config.w1_rows else split(out_features, config.factor)
    if config.w1_columns:
        return rows, (config.w1_columns, in_features // config.w1_columns)
    return rows, split(in_features, config.factor)


def whole_from(rows: int, columns: int) -> int:
    """The least rank for which a matrix has no low-rank factors: half its larger side, rounded up."""
    return -(-max(rows, columns) // 2)


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    """The product a ⊗ b of matrices with any strides, which torch.kron does not take."""
    return torch.einsum("ac,bd->abcd", a, b).flatten(2).flatten(0, 1)


@lru_cache(maxsize=4096)
def split(size: int, factor: int) -> tuple[int, int]:
    """`size` as a product of two, the smaller first: `factor` itself if it divides `size`, else the most equal pair.

    With a positive factor the smaller one is at most that; −1 has no such limit. As in LyCORIS, whose files these
    shapes have to fit.
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    limit = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = max(n for n in range(1, limit + 1) if size % n == 0)
    return small, size // small
