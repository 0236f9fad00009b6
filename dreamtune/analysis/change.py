"""One layer's change ΔW in the form that everything here is computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from dreamtune.adapters import Adapter
from dreamtune.adapters.spectrum import Spectrum
from dreamtune.adapters.svd import Svd
from dreamtune.errors import AdapterFileError

from .leading import leading

_RESOLUTION = 1e-6
"""Singular values below this share of the largest are rounding: a ΔW that was formed in fp32 resolves no less."""


class Change(ABC):
    """ΔW = u @ diag(s) @ vᵀ, its thin singular value decomposition: fp64 on the CPU, r = 0 for ΔW = 0.

    Kept as u, s and v where these are had by a short way. Otherwise as ΔW itself, decomposed as far as is asked for.
    """

    shape: tuple[int, int]
    """(out, in)"""
    norm: float
    """‖ΔW‖ (Frobenius)."""

    @staticmethod
    @torch.no_grad()
    def of_factors(up: Tensor, down: Tensor) -> Change:
        """Of up @ down, up (out, k), down (k, in), in O((out + in)·k²). Raises AdapterFileError for NaN or infinity."""
        left, right = torch.linalg.qr(_exact(up)), torch.linalg.qr(_exact(down).T)
        u, s, vh = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
        return _Thin(Svd(left.Q @ u, s, right.Q @ vh.T))

    @staticmethod
    @torch.no_grad()
    def of_matrix(change: Tensor) -> Change:
        """Of a dense ΔW (out, in). Raises AdapterFileError for NaN or infinity."""
        return _Dense(_exact(change))

    @staticmethod
    @torch.no_grad()
    def of_adapter(adapter: Adapter, weight: Tensor) -> Change:
        """Of any method's adapter on its pristine `weight` (out, in). Raises AdapterFileError for NaN or infinity."""
        factors = adapter.low_rank(weight)
        if factors is not None and factors[0].shape[1] < min(adapter.shape):
            return Change.of_factors(*factors)
        for tensor in adapter.parameters():
            _check(bool(tensor.isfinite().all()))
        known = adapter.decomposition(weight)
        return Change.of_matrix(adapter.delta_weight(weight)) if known is None else _Thin(known)

    @property
    @abstractmethod
    def s(self) -> Tensor:
        """(r,), descending; all above 0, and more than rounding."""

    @abstractmethod
    def leading(self, count: int) -> tuple[Tensor, Tensor]:
        """The first columns of u and v, (out, count) and (in, count), or all if r is less."""

    @abstractmethod
    def along(self, svd: Svd) -> tuple[Tensor, Tensor]:
        """Left (k, q) and right (k, q) with left @ rightᵀ = UᵀΔW V, for U (out, k) and V (in, k) of a weight.

        The rows of right are as long as ΔW V's columns.
        """

    @abstractmethod
    def whole(self) -> Tensor:
        """ΔW (out, in)."""

    def inner(self, other: Change) -> float:
        """⟨ΔA, ΔB⟩ (Frobenius)."""
        return float((self.whole() * other.whole()).sum())

    @property
    @abstractmethod
    def gain(self) -> Tensor:
        """G (in, q) fp32: ‖ΔW x‖ = ‖xᵀ G‖ for any input x."""

    @property
    def u(self) -> Tensor:
        """(out, r), orthonormal columns."""
        return self.leading(self.rank)[0]

    @property
    def v(self) -> Tensor:
        """(in, r), orthonormal columns."""
        return self.leading(self.rank)[1]

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """(out, r) and (r, in), whose product is ΔW."""
        u, v = self.leading(self.rank)
        return u * self.s, v.T

    @property
    def rank(self) -> int:
        """Number of directions that are not rounding."""
        return len(self.s)

    @property
    def spectrum(self) -> Spectrum:
        """Its singular values, with energy and stable rank; that of ΔW = 0 is a single 0."""
        return Spectrum(self.s if self.rank else torch.zeros(1, dtype=torch.float64))

    def dense(self) -> Tensor:
        """ΔW (out, in) in fp32."""
        return self.whole().float()


class _Thin(Change):
    """By all its directions."""

    def __init__(self, svd: Svd) -> None:
        _check(float(svd.s[0]) < torch.finfo(torch.float32).max)
        self.shape = len(svd.u), len(svd.v)
        self._svd = svd.columns(0, _rank(svd.s))
        self.norm = float(self._svd.s.norm())

    @property
    def s(self) -> Tensor:
        return self._svd.s

    def leading(self, count: int) -> tuple[Tensor, Tensor]:
        return self._svd.u[:, :count], self._svd.v[:, :count]

    def along(self, svd: Svd) -> tuple[Tensor, Tensor]:
        """In O((out + in)·k·r), fp64."""
        return svd.u.double().T @ self.u, (svd.v.double().T @ self.v) * self.s

    def inner(self, other: Change) -> float:
        """Of two like this without forming either."""
        if not isinstance(other, _Thin):
            return super().inner(other)
        return float(((self.u.T @ other.u) * (self.s[:, None] * (self.v.T @ other.v) * other.s)).sum())

    def whole(self) -> Tensor:
        up, down = self.factors
        return up @ down

    def dense(self) -> Tensor:
        """By a product in fp32, which is exact enough for it."""
        up, down = self.factors
        return up.float() @ down.float()

    @property
    def gain(self) -> Tensor:
        """V diag(s)."""
        return (self.v * self.s).float()


class _Dense(Change):
    """By ΔW (out, in) itself."""

    def __init__(self, matrix: Tensor) -> None:
        self.shape = matrix.shape[0], matrix.shape[1]
        self._matrix, self.norm = matrix, float(matrix.norm())
        self._is_wide = self.shape[0] < self.shape[1]
        self._tall = matrix.T if self._is_wide else matrix

    @cached_property
    def _gram(self) -> Tensor:
        """ΔWᵀΔW, or ΔWΔWᵀ if that is smaller."""
        return self._tall.T @ self._tall

    @cached_property
    def _squares(self) -> Tensor:
        """Its eigenvalues, descending: squared singular values, which fp64 tells down to 1e-8 of the largest so."""
        return torch.linalg.eigvalsh(self._gram).flip(0)

    @property
    def s(self) -> Tensor:
        s = self._squares.clamp_min(0).sqrt()
        return s[: _rank(s)]

    def leading(self, count: int) -> tuple[Tensor, Tensor]:
        """See leading.py for what it costs."""
        count = min(count, self.rank)
        inner = leading(self._gram, self._squares, count)
        outer = self._tall @ inner / self.s[:count]
        return (inner, outer) if self._is_wide else (outer, inner)

    def along(self, svd: Svd) -> tuple[Tensor, Tensor]:
        """Uᵀ and (ΔW V)ᵀ in fp32, as precise as U and V are kept."""
        return svd.u.T, (self._matrix.float() @ svd.v).T

    def whole(self) -> Tensor:
        return self._matrix

    @property
    def gain(self) -> Tensor:
        """ΔWᵀ."""
        return self._matrix.T.float()


def _exact(matrix: Tensor) -> Tensor:
    """In fp64 on the CPU."""
    _check(bool(matrix.isfinite().all()))
    return matrix.detach().cpu().double()


def _check(finite: bool) -> None:
    if not finite:
        raise AdapterFileError("its change holds NaN or infinity: train it again, with a smaller learning rate")


def _rank(s: Tensor) -> int:
    """How many of the singular values `s`, in descending order, are not rounding."""
    return int((s > _RESOLUTION * s[0]).sum()) if s[0] > 0 else 0
