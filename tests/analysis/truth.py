"""Weights and changes of which everything is known."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.svd import Svd, SvdStore

SHAPE = (96, 64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weight(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=generator(seed)) / shape[1] ** 0.5


def decomposed(weight: Tensor) -> Svd:
    return SvdStore(Path("/nonexistent/store")).full(weight)


def along(svd: Svd, indices: Sequence[int], rates: Sequence[float]) -> Delta:
    """The change along core directions with the given δ."""
    chosen = torch.tensor(indices)
    amounts = torch.tensor(rates) * (svd.s[chosen] + 1e-6)
    return Delta.of_factors(svd.u[:, chosen] * amounts, svd.v[:, chosen].T)


def random_change(seed: int, rank: int = 4, shape: tuple[int, int] = SHAPE) -> Delta:
    source = generator(seed)
    return Delta.of_factors(
        torch.randn(shape[0], rank, generator=source), torch.randn(rank, shape[1], generator=source)
    )
