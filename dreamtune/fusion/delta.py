"""One adapter's change ΔW of one layer: as factors as long as that is exact and small, else as the whole matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import Adapter

_RESOLUTION = 1e-7
"""Singular values below this share of the largest are rounding: fp32 resolves no less."""


@dataclass(frozen=True, eq=False)
class Delta:
    """ΔW = up @ down, up (out, k), down (k, in), fp32 or better on the CPU; k is min(out, in) for a full matrix."""

    up: Tensor
    down: Tensor
    whole: Tensor | None = None
    """(out, in) where ΔW has no small factors; then one of the factors is the identity."""

    @classmethod
    @torch.no_grad()
    def of_matrix(cls, matrix: Tensor) -> Delta:
        """Of a whole ΔW (out, in)."""
        matrix = _wide(matrix)
        out_features, in_features = matrix.shape
        if out_features <= in_features:
            return cls(torch.eye(out_features, dtype=matrix.dtype), matrix, matrix)
        return cls(matrix, torch.eye(in_features, dtype=matrix.dtype), matrix)

    @classmethod
    @torch.no_grad()
    def of_factors(cls, up: Tensor, down: Tensor) -> Delta:
        """Of up (out, k) @ down (k, in); multiplied out where k is more than the layer can have."""
        up, down = _wide(up), _wide(down)
        return cls(up, down) if up.shape[1] < min(up.shape[0], down.shape[1]) else cls.of_matrix(up @ down)

    @classmethod
    @torch.no_grad()
    def of_adapter(cls, adapter: Adapter, weight: Tensor) -> Delta:
        """Of any method's adapter on its pristine `weight`, which may be on the meta device if ΔW does not need it."""
        factors = adapter.low_rank(weight)
        return cls.of_matrix(adapter.delta_weight(weight)) if factors is None else cls.of_factors(*factors)

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> Delta:
        """ΔW = 0 of shape (out, in): k = 0."""
        return cls(torch.zeros(shape[0], 0), torch.zeros(0, shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        """Columns of the factors."""
        return self.up.shape[1]

    @property
    def dense_size(self) -> int:
        """How many numbers the whole matrix has."""
        return self.shape[0] * self.shape[1]

    @property
    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        if self.whole is not None:
            return float(self.whole.norm())
        gram = (self.up.double().T @ self.up.double()) * (self.down.double() @ self.down.double().T)
        return max(float(gram.sum()), 0.0) ** 0.5

    @property
    def gain(self) -> Tensor:
        """G (in, k) fp32: ‖ΔW x‖ = ‖xᵀ G‖ for any input x."""
        return (self.down.double().T @ torch.linalg.qr(self.up.double(), mode="r").R.T).float()

    def output_norm(self, moment: Tensor) -> float:
        """√tr(ΔW C ΔWᵀ): the root of E‖ΔW x‖² for inputs x of the second moment C (in, in)."""
        inner = self.down.double() @ moment.double() @ self.down.double().T
        return max(float(((self.up.double().T @ self.up.double()) * inner).sum()), 0.0) ** 0.5

    def dense(self) -> Tensor:
        """ΔW (out, in)."""
        return self.up @ self.down if self.whole is None else self.whole

    def scaled(self, factor: float) -> Delta:
        """factor·ΔW; itself for 1."""
        if factor == 1:
            return self
        return Delta(self.up * factor, self.down) if self.whole is None else Delta.of_matrix(self.whole * factor)

    @torch.no_grad()
    def svd(self, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Columns u (out, k), values s (k,), descending, rows vᵀ (k, in), fp64: at most `rank`, and no rounding."""
        if self.whole is not None:
            u, s, vh = torch.linalg.svd(self.whole.double(), full_matrices=False)
        else:
            left, right = torch.linalg.qr(self.up.double()), torch.linalg.qr(self.down.double().T)
            u, s, vh = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
            u, vh = left.Q @ u, vh @ right.Q.T
        keep = min(real_columns(s), len(s) if rank is None else rank)
        return u[:, :keep], s[:keep], vh[:keep]


def real_columns(s: Tensor) -> int:
    """How many of the singular values s (k,), descending, are not rounding, whose directions mean nothing."""
    return int((s > _RESOLUTION * s[0]).sum()) if len(s) else 0


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
