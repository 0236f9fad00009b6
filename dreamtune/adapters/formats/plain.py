"""Any adapter as plain LoRA, exactly where ΔW has small factors, else as close as a given rank allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..base import Adapter
from ..delta import Delta
from ..file import AdapterFile
from .assembled import Assembled


@dataclass(frozen=True, eq=False)
class PlainLoRA:
    """An adapter as LoRA, and what it keeps of the original's change."""

    file: AdapterFile
    energy: Mapping[str, float]
    """Layer path -> share of ‖ΔW‖² kept, 1 where it is exact."""


def plain_lora(
    file: AdapterFile, rank: int | Mapping[str, int] | None = None, weights: Mapping[str, Tensor] | None = None
) -> PlainLoRA:
    """The same change as LoRA of the scale 1, in fp32.

    rank: the most that a layer may have, or each by its path; by default what is exact. weights: as AdapterFile.weights
    gives them, for methods whose ΔW depends on the weight. Embeddings of its words are left out.

    Raises ConfigError when the change has no small exact factors and `rank` is not given, when the weights are needed
    and missing, or for a rank below 1.
    """
    most = rank if isinstance(rank, Mapping) else dict.fromkeys(file.layers, rank)
    for value in most.values():
        if value is not None and value < 1:
            raise ConfigError(f"rank = {value} must be at least 1")
    adapters = file.adapters()
    if file.method == "lora" and all((most[path] or a.config.rank) >= a.config.rank for path, a in adapters.items()):
        return PlainLoRA(file, dict.fromkeys(file.layers, 1.0))
    factors = {
        path: _factors(adapter, file.method, path, most[path], None if weights is None else weights[path])
        for path, adapter in adapters.items()
    }
    lora = Assembled.of({path: (layer.up, layer.down) for path, (layer, _) in factors.items()}, file.layers)
    plain = replace(
        file,
        method="lora",
        config=lora.config,
        layers=lora.layers,
        tensors=lora.tensors,
        embeddings={},
        further_embeddings={},
    )
    return PlainLoRA(plain, {path: kept for path, (_, kept) in factors.items()})


def _factors(adapter: Adapter, method: str, path: str, rank: int | None, weight: Tensor | None) -> tuple[Delta, float]:
    """The best factors of at most `rank`, and the share of ‖ΔW‖² that they keep."""
    stand_in = torch.empty(adapter.shape, device="meta")
    exact = adapter.low_rank(stand_in)
    if exact is not None:
        up, down = (factor.detach().cpu().double() for factor in exact)
        return Delta(up, down).truncated(min(*adapter.shape, rank or min(adapter.shape)))
    if rank is None:
        raise ConfigError(f"{method} has no small exact factors (layer {path}): set the rank to approximate it with")
    if weight is None and adapter.uses_weight:
        raise ConfigError(f"the change of {method} depends on the base's weights: set the base")
    known = None if adapter.uses_weight else adapter.decomposition(stand_in)
    if known is not None:  # by a shorter way, and without the memory of ΔW
        return Delta.of_svd(known).truncated(rank)
    with torch.no_grad():
        return Delta.of_matrix(adapter.delta_weight(stand_in if weight is None else weight)).truncated(rank)
