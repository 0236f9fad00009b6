"""The result of a fusion as one adapter file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.interop.assembled import Assembled

from .delta import Delta

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
    word: AdapterFile | None = None,
    **description: Any,
) -> Fused:
    """The changes as one LoRA file: exact factors where there are small ones, else the best of at most `rank`.

    rank: the most that any layer may have; without it exact factors stay and other layers have RANK. whole: keep all
    of every layer, at any rank. word: the adapter whose embeddings of a new word go along. description: `base`,
    `trigger`, `class_word`, `training`, and so on of the AdapterFile.
    """
    factors, energy = {}, {}
    for path, delta in dict(fused).items():
        up, down, energy[path] = delta.up, delta.down, 1.0
        if not whole and (rank is not None or delta.whole is not None) and delta.rank > (rank or RANK):
            u, s, vh = delta.svd()
            kept = min(len(s), rank or RANK)
            total = float(s.square().sum())
            energy[path] = 1 - float(s[kept:].square().sum()) / total if total else 1.0
            root = s[:kept].sqrt()
            up, down = u[:, :kept] * root, root[:, None] * vh[:kept]
        if not up.shape[1]:  # a layer whose changes are all 0; LoRA has no rank 0
            up, down = torch.zeros(delta.shape[0], 1), torch.zeros(1, delta.shape[1])
        factors[path] = (up, down)
    lora = Assembled.of(factors, records)
    embeddings = {} if word is None else dict(word.embeddings)
    vectors = {} if word is None else {f"embedding.{part}": word.tensors[f"embedding.{part}"] for part in embeddings}
    file = AdapterFile(
        method="lora",
        config=lora.config,
        layers=lora.layers,
        embeddings=embeddings,
        tensors={**lora.tensors, **vectors},
        **description,
    )
    return Fused(file, energy, {path: up.shape[1] for path, (up, _) in factors.items()})
