"""New adapters that start from the change of an adapter file instead of from zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from .base import Adapter
from .delta import Delta
from .file import AdapterFile
from .methods import METHODS


@dataclass(frozen=True)
class Start:
    """How much of a file's change new adapters have begun at."""

    energy: float
    """Share of the sum of ‖ΔW‖² over all layers of the file; exactly 1 if nothing is lost but rounding."""
    layers: int
    """Those that have begun so."""
    rank: int
    """The least rank by which all of them would have all of it."""
    least: tuple[str, float]
    """The layer of these that keeps least of its own, and how much."""
    left_out: tuple[str, ...]
    """Layers of the file that are not trained here."""
    energy_left_out: float
    """Their share of the sum."""


@torch.no_grad()
def start_at(adapters: Mapping[str, Adapter], file: AdapterFile, weights: Mapping[str, Tensor]) -> Start:
    """Let new, initialized adapters begin at the change that `file` makes of the same layers.

    adapters: layer path, as in files -> the new adapter; those that the file does not have stay at zero. weights: the
    file's, as AdapterFile.weights gives them. An adapter of the same form, that is of the same method with the same
    options (only the scale and how it is trained may differ), takes over the tensors; another one takes the factors of
    ΔW, the best of its rank where those have more.

    Raises ConfigError for a method that cannot begin at the change of another one, and if the two have no layer in
    common.
    """
    if not adapters.keys() & file.layers.keys():
        raise ConfigError("the adapter to start from changes none of the trained layers: set other targets")
    sums, kept, rank = dict[str, float](), dict[str, float](), 1
    for path, other in file.adapters().items():
        own, weight = adapters.get(path), weights[path]
        change = _exact(other, weight)
        sums[path] = change.norm**2
        if own is None:
            continue
        if _take_over(own, other):
            kept[path] = 1.0
            continue
        if not own.start_rank:
            raise ConfigError(_refusal(own, other, path))
        all_of_it = change.columns <= own.start_rank
        found, kept[path] = (change, 1.0) if all_of_it else change.truncated(own.start_rank)
        own.start_at(weight.float(), found.up, found.down)
        rank = max(rank, min(*own.shape, change.columns))
    total = sum(sums.values())
    left_out = tuple(path for path in file.layers if path not in adapters)
    lost = sum((1 - share) * sums[path] for path, share in kept.items())
    outside = sum(sums[path] for path in left_out)
    return Start(
        energy=1 - (lost + outside) / total if total else 1.0,
        layers=len(kept),
        rank=rank,
        least=min(kept.items(), key=lambda item: item[1]),
        left_out=left_out,
        energy_left_out=outside / total if total else 0.0,
    )


def _take_over(own: Adapter, other: Adapter) -> bool:
    """Copy the tensors of an adapter of the same form; False if it has another."""
    if type(own) is not type(other) or own.config.form() != other.config.form():
        return False
    state, mine = other.state_dict(), own.state_dict()
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in mine.items()}:
        return False
    ratio = other.config.scale / own.config.scale
    if ratio != 1:
        if own.scaled_tensor is None:
            return False
        state[own.scaled_tensor] = state[own.scaled_tensor] * ratio
    own.load_state_dict(state)
    return True


def _exact(adapter: Adapter, weight: Tensor) -> Delta:
    """In fp64, by its own factors where it has some."""
    factors = adapter.low_rank(weight)
    if factors is None:
        return Delta.of_matrix(adapter.delta_weight(weight).double())
    up, down = (factor.detach().cpu().double() for factor in factors)
    return Delta(up, down)


def _refusal(own: Adapter, other: Adapter, path: str) -> str:
    mine, theirs = (next(name for name, kind in METHODS.items() if kind is type(it)) for it in (own, other))
    if mine == theirs:
        differing = {
            name: value for name, value in other.config.to_dict().items() if own.config.to_dict()[name] != value
        }
        said = ", ".join(f"{name} {value}" for name, value in differing.items())
        return f"{mine} can only start from {mine} with the same options: the adapter has {said} (layer {path})"
    able = ", ".join(name for name, kind in METHODS.items() if kind.starts_anywhere)
    return f"{mine} cannot start from {theirs}, only from {mine}: train {theirs}, or one of {able}"
