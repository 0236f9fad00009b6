"""One adapter's change ΔW of one layer: what merging, export, fusion, analysis and regions compute from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError

from .base import Adapter
from .leading import leading
from .spectrum import Spectrum, real_columns
from .svd import Svd

_FORMED = 1e-6
"""The same as spectrum.RESOLUTION, for what follows from a ΔW that was formed in fp32."""
_AGAIN = "train it again with a lower learning rate"
_BEYOND, _NOT_FINITE = f"overflows: {_AGAIN}", f"contains NaN or infinity: {_AGAIN}"


@dataclass(frozen=True, eq=False)
class Delta:
    """ΔW = up @ down, up (out, k), down (k, in), fp32 or better on the CPU; k is min(out, in) for a dense ΔW.

    Whatever asks for directions of one beyond what numbers hold gets an AdapterFileError.
    """

    up: Tensor
    down: Tensor
    whole: Tensor | None = None
    """(out, in) where ΔW has no small factors; then one of the factors is the identity."""
    known: Svd | None = None
    """The singular value decomposition of a dense ΔW, where the method has a short way to it."""

    @classmethod
    @torch.no_grad()
    def of_matrix(cls, matrix: Tensor, known: Svd | None = None) -> Delta:
        """Of a dense ΔW (out, in)."""
        matrix = _wide(matrix)
        out_features, in_features = matrix.shape
        if out_features <= in_features:
            return cls(torch.eye(out_features, dtype=matrix.dtype), matrix, matrix, known)
        return cls(matrix, torch.eye(in_features, dtype=matrix.dtype), matrix, known)

    @classmethod
    @torch.no_grad()
    def of_factors(cls, up: Tensor, down: Tensor) -> Delta:
        """Of up (out, k) @ down (k, in); multiplied out where k is as much as the layer can have."""
        up, down = _wide(up), _wide(down)
        return cls(up, down) if up.shape[1] < min(up.shape[0], down.shape[1]) else cls.of_matrix(up @ down)

    @classmethod
    @torch.no_grad()
    def of_adapter(cls, adapter: Adapter, weight: Tensor) -> Delta:
        """Of any method's adapter on its base weight, which may be on the meta device if ΔW does not need it.

        Raises AdapterFileError for NaN or infinity.
        """
        if not all(bool(tensor.isfinite().all()) for tensor in adapter.parameters()):
            raise AdapterFileError(f"its change {_NOT_FINITE}")
        factors = adapter.low_rank(weight)
        if factors is not None:
            return cls.of_factors(*factors)
        return cls.of_matrix(adapter.delta_weight(weight), adapter.decomposition(weight))

    @classmethod
    def of_svd(cls, known: Svd) -> Delta:
        """Of its own decomposition, without the memory of ΔW."""
        return cls(known.u * known.s, known.v.T, known=known)

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> Delta:
        """ΔW = 0 of shape (out, in): k = 0."""
        return cls(torch.zeros(shape[0], 0), torch.zeros(0, shape[1]))

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def columns(self) -> int:
        """Columns of the factors, k."""
        return self.up.shape[1]

    def checked(self) -> Delta:
        """Itself. Raises AdapterFileError where the product of finite factors is beyond what numbers hold."""
        _finite(self.svd.s if self.whole is None else self.whole)
        return self

    def dense(self) -> Tensor:
        """ΔW (out, in)."""
        return self.up @ self.down if self.whole is None else self.whole

    def scaled(self, factor: float) -> Delta:
        """factor·ΔW; itself for 1."""
        if factor == 1:
            return self
        return Delta(self.up * factor, self.down) if self.whole is None else Delta.of_matrix(self.whole * factor)

    def output_norm(self, moment: Tensor) -> float:
        """√tr(ΔW C ΔWᵀ): the root of E‖ΔW x‖² for inputs x of the second moment C (in, in)."""
        inner = self.down.double() @ moment.double() @ self.down.double().T
        return max(float(((self.up.double().T @ self.up.double()) * inner).sum()), 0.0) ** 0.5

    @cached_property
    def gain(self) -> Tensor:
        """G (in, q) fp32: ‖ΔW x‖ = ‖xᵀ G‖ for any input x."""
        if self._by_gram:
            return self.dense().T.float()
        return (self.v * self.s).float()

    def inner(self, other: Delta) -> float:
        """⟨ΔA, ΔB⟩ (Frobenius), of two whose directions are known without forming either."""
        if self._by_gram or other._by_gram:
            return float((self._double * other._double).sum())
        return float(((self.u.T @ other.u) * (self.s[:, None] * (self.v.T @ other.v) * other.s)).sum())

    @cached_property
    @torch.no_grad()
    def svd(self) -> Svd:
        """All columns, those of rounding too, in fp64; with factors in O((out + in)·k²)."""
        if self.known is not None:
            found = self.known
        elif self.whole is not None:
            u, s, vh = torch.linalg.svd(_finite(self.whole), full_matrices=False)
            found = Svd(u, s, vh.T)
        else:
            left, right = torch.linalg.qr(_finite(self.up)), torch.linalg.qr(_finite(self.down).T)
            u, s, vh = torch.linalg.svd(_finite(left.R @ right.R.T), full_matrices=False)
            found = Svd(left.Q @ u, s, right.Q @ vh.T)
        if len(found.s) and not float(found.s[0]) < torch.finfo(torch.float32).max:
            raise AdapterFileError(f"its change {_BEYOND}")
        return found

    @property
    def directions(self) -> Svd:
        """The same without columns that are rounding."""
        return self.svd.columns(0, real_columns(self.svd.s))

    @torch.no_grad()
    def truncated(self, rank: int) -> tuple[Delta, float]:
        """The best factors of at most `rank` columns (Eckart and Young), and the share of ‖ΔW‖² that they keep.

        Itself where it was given by no more columns; else each factor takes the root of the singular values, in fp64.
        """
        if self.columns <= rank and self.whole is None and self.known is None:
            return self, 1.0
        u, s, v = self.svd.u.double(), self.svd.s.double(), self.svd.v.double()
        root, squares = s[:rank].sqrt(), s.square()
        total = float(squares.sum())
        # of what is lost, not of what is kept: exactly 1 where nothing is
        kept = 1 - float(squares[rank:].sum()) / total if total else 1.0
        return Delta(u[:, :rank] * root, root[:, None] * v.T[:rank]), kept

    @property
    def spectrum(self) -> Spectrum:
        """Its singular values, with energy and stable rank; that of ΔW = 0 is a single 0."""
        return Spectrum(self.s if self.rank else torch.zeros(1, dtype=torch.float64))

    # Directions that are more than rounding. Of a dense ΔW by its smaller Gram matrix, which costs less than `svd`.

    @cached_property
    def norm(self) -> float:
        """‖ΔW‖ (Frobenius)."""
        return float(_finite(self.dense()).norm()) if self._by_gram else float(self.s.norm())

    @cached_property
    def s(self) -> Tensor:
        """(r,) fp64, descending; all above 0, and more than rounding."""
        s = self._squares.clamp_min(0).sqrt() if self._by_gram else self.svd.s.double()
        return s[: real_columns(s, _FORMED)]

    @property
    def rank(self) -> int:
        """Number of directions that are not rounding."""
        return len(self.s)

    def leading(self, count: int) -> tuple[Tensor, Tensor]:
        """The first columns of u (out, count) and v (in, count), fp64, or all if the rank is less."""
        count = min(count, self.rank)
        if not self._by_gram:
            return self.svd.u.double()[:, :count], self.svd.v.double()[:, :count]
        inner = leading(self._gram, self._squares, count)
        outer = self._tall @ inner / self.s[:count]
        return (inner, outer) if self._is_wide else (outer, inner)

    @property
    def u(self) -> Tensor:
        """(out, r) fp64, orthonormal columns."""
        return self.leading(self.rank)[0]

    @property
    def v(self) -> Tensor:
        """(in, r) fp64, orthonormal columns."""
        return self.leading(self.rank)[1]

    def along(self, svd: Svd) -> tuple[Tensor, Tensor]:
        """Left (k, q) and right (k, q) with left @ rightᵀ = UᵀΔW V, for U (out, k) and V (in, k) of a weight.

        The rows of right are as long as ΔW V's columns. Of factors in O((out + in)·k·r), fp64; of a dense ΔW in fp32,
        as precise as U and V are kept.
        """
        if self._by_gram:
            return svd.u.T, (self.dense().float() @ svd.v).T
        return svd.u.double().T @ self.u, (svd.v.double().T @ self.v) * self.s

    def without_rounding(self) -> Tensor:
        """ΔW (out, in) fp32 from its directions alone; a dense ΔW as it is."""
        return self.dense().float() if self._by_gram else (self.u * self.s).float() @ self.v.T.float()

    @property
    def _double(self) -> Tensor:
        """ΔW (out, in) fp64."""
        return self.dense().double() if self._by_gram else (self.u * self.s) @ self.v.T

    @property
    def _by_gram(self) -> bool:
        return self.whole is not None and self.known is None

    @property
    def _is_wide(self) -> bool:
        return self.shape[0] < self.shape[1]

    @cached_property
    def _tall(self) -> Tensor:
        matrix = _finite(self.dense())
        return matrix.T if self._is_wide else matrix

    @cached_property
    def _gram(self) -> Tensor:
        """ΔWᵀΔW, or ΔWΔWᵀ if that is smaller."""
        return self._tall.T @ self._tall

    @cached_property
    def _squares(self) -> Tensor:
        """Its eigenvalues, descending: squared singular values, which fp64 tells down to 1e-8 of the largest so."""
        return torch.linalg.eigvalsh(self._gram).flip(0)


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _finite(tensor: Tensor) -> Tensor:
    """In fp64. Raises AdapterFileError where the sum of squares, which shares are of, is no number."""
    tensor = tensor.detach().cpu().double()
    if not tensor.square().sum().isfinite():
        raise AdapterFileError(f"its change {_BEYOND}")
    return tensor
