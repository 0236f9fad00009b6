"""The result of a fusion as one adapter file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.delta import Delta
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.formats.assembled import Assembled

RANK = 64
"""Of layers whose result has no small factors, if no rank is given."""


@dataclass(frozen=True, eq=False)
class Fused:
    """The result of a fusion."""

    file: AdapterFile
    energy: Mapping[str, float]
    """Layer path -> share of ‖ΔW‖² that the file keeps of the fusion's result, 1 where it is exact."""
    ranks: Mapping[str, int]


@torch.no_grad()
def as_file(
    fused: Mapping[str, Delta] | Iterator[tuple[str, Delta]],
    records: Mapping[str, LayerRecord],
    rank: int | None,
    *,
    whole: bool = False,
    vectors: Mapping[str, Mapping[str, Tensor]] | None = None,
    **description: Any,
) -> Fused:
    """The changes as one LoRA file: exact factors where there are small ones, else the best of at most `rank`.

    rank: the most that any layer may have; without it exact factors stay and other layers have RANK. whole: keep all
    of every layer, at any rank, as LoRA or as the matrices themselves (`full`), whichever is smaller. vectors:
    embeddings of new words that go along, as AdapterFile.vectors has them. description: `base`, `token`,
    `class_word`, `training`, and so on of the AdapterFile.
    """
    deltas = dict(fused)
    energy = dict.fromkeys(deltas, 1.0)
    if whole and sum(it.columns * sum(it.shape) - math.prod(it.shape) for it in deltas.values()) > 0:
        method, made = "full", Assembled.of_matrices({path: it.dense() for path, it in deltas.items()}, records)
    else:
        factors = {}
        for path, delta in deltas.items():
            most = delta.columns if whole or (rank is None and delta.whole is None) else rank or RANK
            factors[path], energy[path] = _factors(delta, most)
        method, made = "lora", Assembled.of(factors, records)
    file = AdapterFile(
        method=method,
        config=made.config,
        layers=made.layers,
        tensors=made.tensors,
        **description,
    )
    if vectors:
        file = file.with_vectors(vectors)
    full = method == "full"
    return Fused(
        file, energy, {p: min(it.shape) if full else len(made.tensors[f"{p}.down"]) for p, it in deltas.items()}
    )


def _factors(delta: Delta, most: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Up (out, k) and down (k, in) with 1 <= k <= `most`, the best there are, and the share of ‖ΔW‖² they keep."""
    nothing = torch.zeros(delta.shape[0], 1), torch.zeros(1, delta.shape[1])
    if not delta.columns:  # a layer whose changes are all 0; LoRA has no rank 0
        return nothing, 1.0
    if delta.columns <= most:
        return (delta.up, delta.down), 1.0
    real = len(delta.directions.s)
    if not real:
        return nothing, 1.0
    kept, share = delta.truncated(min(real, most))
    return (kept.up, kept.down), share
