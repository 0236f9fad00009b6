"""The fusions, for one layer: here those that need nothing but the changes themselves, and the table of all.

A new one is one function and one line in FUSIONS. All of them give a single change at weight 1 back as it is (with
density 1 where they have one), and none depends on the order of its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamtune.adapters.delta import Delta
from dreamtune.adapters.spectrum import real_columns

from .constrained import fuse_custom_diffusion
from .gradient import fuse_gradient
from .layer_deltas import Fusion, LayerDelta, added


def fuse_sum(parts: Sequence[LayerDelta], density: float) -> Delta:
    """Σ λᵢ ΔWᵢ, exactly: factors side by side."""
    return added([part.weighted for part in parts])


def fuse_mean(parts: Sequence[LayerDelta], density: float) -> Delta:
    """(1/n) Σ λᵢ ΔWᵢ over the n adapters, those included that leave this layer alone."""
    return fuse_sum(parts, density).scaled(1 / len(parts))


def fuse_ties(parts: Sequence[LayerDelta], density: float) -> Delta:
    """TIES (Yadav et al., arXiv 2306.01708), trimmed by layer: trim, elect signs, mean of those that agree."""
    if len(parts) == 1 and density == 1:
        return parts[0].weighted
    return Delta.of_matrix(_ties(torch.stack([part.weighted.dense() for part in parts]), density))


def fuse_dare(parts: Sequence[LayerDelta], density: float) -> Delta:
    """DARE (Yu et al., arXiv 2311.03099): each number is kept with the chance `density`, and divided by it; summed."""
    if density == 1:
        return fuse_sum(parts, density)
    kept = []
    for part in parts:
        matrix = part.weighted.dense()
        draw = torch.rand(matrix.shape, generator=torch.Generator().manual_seed(part.seed))
        kept.append(Delta.of_matrix(torch.where(draw < density, matrix / density, 0.0)))
    return added(kept)


def fuse_magnitude(parts: Sequence[LayerDelta], density: float) -> Delta:
    """The share `density` of each ΔW that is largest in magnitude, summed (`magnitude_prune` in PEFT)."""
    if density == 1:
        return fuse_sum(parts, density)
    return added([Delta.of_matrix(_trimmed(part.weighted.dense(), density)) for part in parts])


def fuse_tsv(parts: Sequence[LayerDelta], density: float) -> Delta:
    """Task Singular Vectors (Gargiulo et al., arXiv 2412.00081, TSV-Merge): U and V of all made orthogonal together.

    U = [U₁ U₂ ...] becomes its orthogonal polar factor, V as well; ΔW = U diag(λᵢ Sᵢ) Vᵀ. Where the columns of all do
    not fit into the layer, each has its k largest, with the largest k that fits: min(out, in)/n, as in the paper, or
    more where others need less.
    """
    if len(parts) == 1:
        return parts[0].weighted
    room, found = min(parts[0].delta.shape), [(part.weight, part.delta.directions) for part in parts]
    fitting = (k for k in range(room, 0, -1) if sum(min(k, len(own.s)) for _, own in found) <= room)
    most = next(fitting, 1)  # with more adapters than columns, those of each share what there is
    values = torch.cat([weight * own.s[:most] for weight, own in found])
    left = _polar(torch.cat([own.u[:, :most] for _, own in found], 1))
    right = _polar(torch.cat([own.v[:, :most].T for _, own in found]).T)
    return Delta.of_factors((left * values).float(), right.T.float())


def fuse_knots(parts: Sequence[LayerDelta], density: float) -> Delta:
    """KnOTS-TIES (Stoica et al., arXiv 2410.19735): [λ₁ΔW₁ λ₂ΔW₂ ...] = U Σ [V₁ V₂ ...]; the Vᵢ merged by TIES."""
    if len(parts) == 1 and density == 1:
        return parts[0].weighted
    weighted = [part.weighted for part in parts]
    q = torch.linalg.qr(torch.cat([it.up.double() for it in weighted], 1)).Q
    inner = [(q.T @ it.up.double()) @ it.down.double() for it in weighted]
    u, s, _ = torch.linalg.svd(torch.cat(inner, 1), full_matrices=False)  # (k, k), (k,)
    keep = real_columns(s)
    if not keep:
        return Delta.zero(parts[0].delta.shape)
    u, s = u[:, :keep], s[:keep]
    rows = [u.T @ it / s[:, None] for it in inner]  # Vᵢᵀ, exactly 0 where ΔWᵢ is: rounding would vote on signs
    return Delta.of_factors((q @ (u * s)).float(), _ties(torch.stack(rows), density).float())


FUSIONS: dict[str, Fusion] = {
    "sum": fuse_sum,
    "mean": fuse_mean,
    "ties": fuse_ties,
    "dare": fuse_dare,
    "magnitude": fuse_magnitude,
    "tsv": fuse_tsv,
    "knots": fuse_knots,
    "gradient": fuse_gradient,
    "custom-diffusion": fuse_custom_diffusion,
}
"""Name on the command line -> fusion of one layer."""


def _trimmed(matrix: Tensor, density: float) -> Tensor:
    """The share `density` that is largest in magnitude, to the nearest number but at least one; the rest 0.

    Of numbers that are equally large those that stand first are kept, so that there are never more.
    """
    keep = max(1, round(density * matrix.numel()))
    if keep >= matrix.numel():
        return matrix
    sizes = matrix.abs().flatten()
    least = sizes.kthvalue(len(sizes) - keep + 1).values
    kept = sizes > least
    kept[(sizes == least).nonzero()[: keep - int(kept.sum()), 0]] = True
    return torch.where(kept.view_as(matrix), matrix, 0.0)


def _ties(changes: Tensor, density: float) -> Tensor:
    """(n, rows, columns) -> (rows, columns): the mean of those numbers whose sign is that of their sum."""
    trimmed = torch.stack([_trimmed(change, density) for change in changes])
    agree = trimmed.sign() == trimmed.sum(0).sign()
    agree &= trimmed != 0
    return (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)


def _polar(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns that is nearest to `matrix` (n, k).

    Where there are many and none is nearest, as columns depend on each other, it is the mean of all those: no direction
    is made up.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    real = real_columns(s)
    return u[:, :real] @ vh[:real]
