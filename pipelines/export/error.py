"""The error between an export and the adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.adapters import AdapterFile


@dataclass(frozen=True)
class LayerError:
    """The difference between the written ΔW and the adapter's own in one layer."""

    path: str
    max_abs: float
    """Largest difference of an element of ΔW."""
    relative: float
    """‖difference‖/‖ΔW‖ (Frobenius), or ‖difference‖ where ΔW = 0."""
    energy: float
    """Share of ‖ΔW‖² that is kept before rounding; below 1 where plain LoRA is only an approximation."""


def changes_of(file: AdapterFile, weights: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
    """Layer path and ΔW of every layer; nothing if ΔW depends on weights that are not given."""
    for path, adapter in file.adapters().items():
        if weights is not None or not adapter.uses_weight:
            weight = torch.empty(adapter.shape, device="meta") if weights is None else weights[path]
            yield path, adapter.delta_weight(weight).detach()


def compare(
    file: AdapterFile,
    written: Iterable[tuple[str, Tensor]],
    weights: Mapping[str, Tensor] | None,
    energy: Mapping[str, float],
) -> Iterator[LayerError]:
    """The errors by layer."""
    found = dict(written)  # all of it is written and read before
    for path, change in changes_of(file, weights):
        difference, size = (found[path].double() - change.double()), float(change.double().norm())
        norm = float(difference.norm())
        yield LayerError(path, float(difference.abs().max()), norm / size if size else norm, energy.get(path, 1.0))
