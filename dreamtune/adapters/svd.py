"""Singular vectors of frozen weights, computed once and kept on disk."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError, IncompatibleModelError
from dreamtune.storage import cache_dir

from . import container
from .fingerprint import digest_of

LIMIT = 8 * 2**30
"""Bytes that the store keeps: enough for all attention layers of SDXL."""
_RULES = "1"
"""Part of every key: a change of how entries are computed makes the old ones unreachable."""
_NAME = re.compile(r"\.?[0-9a-f]{16}-(full|top\d+)-\d+\.safetensors(\.[0-9a-f]{8}\.tmp)?")
"""Of entries, by these rules or older ones, and of their temporary files; nothing else in the folder is touched."""
_DEPTH, _CYCLES, _SURPLUS = 12, 2, 8
"""Of the truncated decomposition: powers in one Krylov space, restarts, columns beyond those asked for."""
_TOLERANCE = 1e-10
"""Residual, as a share of σ₁, up to which truncated columns count as exact: far below what fp32 can hold."""


@dataclass(frozen=True, eq=False)
class Svd:
    """W ≈ u @ diag(s) @ vᵀ: singular values in descending order, fp32 on the CPU."""

    u: Tensor
    """(out, k), orthonormal columns; the entry of each that is largest in magnitude is positive."""
    s: Tensor
    """(k,)"""
    v: Tensor
    """(in, k), orthonormal columns."""

    def columns(self, start: int, stop: int) -> Svd:
        """Those from `start` up to but without `stop`."""
        return Svd(*(tensor[..., start:stop].contiguous() for tensor in (self.u, self.s, self.v)))


class SvdStore:
    """Decompositions by the hash of the weight, as files in `folder`; the longest unused go beyond `limit` bytes.

    They are computed in fp64 on the CPU wherever the weight is, so that the results depend on the machine as little
    as can be, and are the same whether they come from the disk or not. Files are whole or absent, so processes can
    share a folder; a damaged one is computed anew. Without a folder that can be written everything is computed each
    time. Nothing is kept in memory: the decompositions of a whole UNet are larger than the UNet.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder, self.limit = folder, limit

    def full(self, weight: Tensor) -> Svd:
        """All k = min(out, in) columns of a weight (out, in) of any precision, which counts as rounded to fp32.

        Raises IncompatibleModelError if it holds NaN or infinity.
        """
        return self._stored(weight, "full", lambda: _full(_exact(weight)))

    def top(self, weight: Tensor, rank: int) -> Svd:
        """The `rank` columns of the largest singular values of a weight (out, in); otherwise like :meth:`full`.

        A few columns of a large weight come from a truncated decomposition that is proven complete, or else from the
        full one. A full one that happens to be stored is not preferred: the last bits of the result would then depend
        on what ran before.
        """

        def compute() -> Svd:
            return _truncated(_exact(weight), rank) or self.full(weight).columns(0, rank)

        return self._stored(weight, f"top{rank}", compute)

    def _stored(self, weight: Tensor, kind: str, compute: Callable[[], Svd]) -> Svd:
        path = self.folder / f"{digest_of(weight, torch.float32)}-{kind}-{_RULES}.safetensors"
        with contextlib.suppress(AdapterFileError):
            svd = Svd(**container.read(path)[0])
            with contextlib.suppress(OSError):
                os.utime(path)  # marks the use; access times are often not kept
            return svd
        svd = compute()
        with contextlib.suppress(AdapterFileError):
            container.write(path, vars(svd), {})
            self._make_room()
        return svd

    def _make_room(self) -> None:
        """Remove the entries beyond the limit, and what killed processes left, oldest first."""
        found = []
        for path in self.folder.iterdir():
            if not _NAME.fullmatch(path.name):
                continue
            with contextlib.suppress(OSError):  # another process may remove it at any moment
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = 0
        for _, size, path in sorted(found, reverse=True):
            total += size
            if total > self.limit:
                with contextlib.suppress(OSError):
                    path.unlink()


def default_store() -> SvdStore:
    """The store in the cache's folder, shared by all methods and tools."""
    return SvdStore(cache_dir() / "svd")


def _exact(weight: Tensor) -> Tensor:
    """What is decomposed: the weight as fp32 holds it, in fp64 on the CPU."""
    matrix = weight.detach().to("cpu", torch.float32).double()
    if not matrix.isfinite().all():
        raise IncompatibleModelError("a weight of the model contains NaN or infinity: download the base model again")
    return matrix


def _full(matrix: Tensor) -> Svd:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return _canonical(u, s, vh.T)


def _canonical(u: Tensor, s: Tensor, v: Tensor) -> Svd:
    """Choose the signs, which are arbitrary, and round."""
    largest = u.gather(0, u.abs().argmax(0, keepdim=True))  # (1, k)
    sign = torch.where(largest < 0, -1.0, 1.0)
    return Svd(*(tensor.float().contiguous() for tensor in (u * sign, s, v * sign)))


def _truncated(matrix: Tensor, rank: int) -> Svd | None:
    """The `rank` largest columns by randomized block Krylov iteration (Musco & Musco, arXiv 1504.05477).

    None where it would be no faster than the full decomposition, does not converge (flat spectra), or is not complete.
    """
    out_features, in_features = matrix.shape
    block = rank + _SURPLUS
    if 2 * block * (_DEPTH + 1) > min(out_features, in_features):
        return None
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(in_features, block, generator=generator, dtype=matrix.dtype)
    for _ in range(_CYCLES):
        powers = [torch.linalg.qr(v).Q]
        for _ in range(_DEPTH):
            powers.append(torch.linalg.qr(matrix.T @ (matrix @ powers[-1])).Q)
        basis = torch.linalg.qr(torch.cat(powers, 1)).Q  # (in, block · (depth + 1))
        u, s, vh = torch.linalg.svd(matrix @ basis, full_matrices=False)
        v = basis @ vh[:block].T
        u, s, best = u[:, :rank], s[:rank], v[:, :rank]
        residual = (matrix.T @ u - best * s).norm(dim=0).max()  # W v = σ u holds by construction
        if residual <= _TOLERANCE * s[0]:
            return _canonical(u, s, best) if _is_complete(matrix, s, best) else None
    return None


def _is_complete(matrix: Tensor, s: Tensor, v: Tensor) -> bool:
    """Whether no direction beyond the columns `v` has a singular value above the smallest in `s`.

    Exactly if WᵀW without its part in span(v) stays below that square: if the difference has a Cholesky factor.
    """
    rest = matrix.T @ matrix - (v * s.square()) @ v.T
    bound = s[-1].square() * (1 + 1e-6) + 1e-14 * s[0].square()
    return not torch.linalg.cholesky_ex(torch.eye(len(rest), dtype=rest.dtype) * bound - rest).info
