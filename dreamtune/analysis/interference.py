"""How one adapter interferes with another, forecast from layer inputs recorded while generating with the other.

For a linear layer that sees inputs x with second moment Cᵢ = E[x xᵀ] while adapter i draws, the output changes by
tr(Δⱼ Cᵢ Δⱼᵀ) = E‖Δⱼ x‖² on average when j is added. Crosstalk Xᵢⱼ is that over i's own change, tr(Δᵢ Cᵢ Δᵢᵀ): exact for
this layer and these inputs, a forecast for pictures, since changes of earlier layers move the inputs too. A convolution
is such a layer on patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dreamtune.adapters.patches import multiplied

DOMINANT = 4.0
"""Ratio of the energies of both output changes from which one adapter drowns the other."""
ROUTE = 1.0
"""Crosstalk from which a layer is changed more by the other adapter than by the own."""


@dataclass
class Recording:
    """Sums over all layer inputs recorded while generating with one adapter."""

    energy: dict[str, Tensor] = field(default_factory=dict)
    """Layer -> Σ‖Δⱼ x‖² of every adapter j (adapters,) fp64; NaN for those that do not change the layer."""
    output: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> Σ‖y‖² of its whole output, at each call."""
    own: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> Σ‖Δᵢ x‖² of the adapter that draws, at each call."""


@contextmanager
def recorded(
    layers: Mapping[str, nn.Module], gains: Mapping[str, Mapping[int, Tensor]], adapters: int, drawing: int
) -> Iterator[Recording]:
    """Within the block, record what `layers` (name -> module) get and give.

    gains: layer -> number of an adapter -> Delta.gain; adapters: how many there are; drawing: which is attached.
    """
    recording = Recording()

    def follow(name: str) -> None:
        right = gains[name]
        blank = torch.full((adapters,), float("nan"), dtype=torch.float64)
        recording.energy[name] = blank.index_fill(0, torch.tensor(sorted(right), dtype=torch.int64), 0.0)
        recording.output[name], recording.own[name] = [], []

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach().float()
            seen = {j: multiplied(layers[name], x, gain.T.to(x.device)) for j, gain in right.items()}
            found = {j: float(y.square().sum()) for j, y in seen.items()}
            for j, energy in found.items():
                recording.energy[name][j] += energy
            recording.own[name].append(found.get(drawing, 0.0))
            recording.output[name].append(float(output.detach().float().square().sum()))

        stack.callback(layers[name].register_forward_hook(hook).remove)

    with ExitStack() as stack:
        for name in layers:
            follow(name)
        yield recording


@torch.no_grad()
def crosstalk(recordings: Sequence[Recording], layer: str) -> Tensor:
    """Xᵢⱼ (adapters, adapters) of one layer; NaN where i or j leaves the layer alone, 1 on the diagonal."""
    energy = torch.stack([recording.energy[layer] for recording in recordings])  # (i, j)
    own = energy.diagonal()[:, None]
    return torch.where(own > 0, energy / own, torch.nan)


@torch.no_grad()
def total_crosstalk(recordings: Sequence[Recording]) -> Tensor:
    """Xᵢⱼ (adapters, adapters) of all layers together: sums of both energies, layers that lack one left out."""
    energy = torch.stack([torch.stack([r.energy[name] for r in recordings]) for name in recordings[0].energy])
    own = energy.diagonal(dim1=1, dim2=2)[:, :, None].expand_as(energy)
    there = energy.isfinite() & own.isfinite()
    above, below = torch.where(there, energy, 0.0).sum(0), torch.where(there, own, 0.0).sum(0)
    return torch.where(below > 0, above / below, torch.nan)


@dataclass(frozen=True)
class Advice:
    """What to do about one pair."""

    a: int
    b: int
    dominant: int | None
    """The adapter that drowns the other, if one does."""
    strengths: tuple[float, float] | None
    """Of `a` and `b`, so that both change the outputs by as much; the larger is 1."""
    route: tuple[str, ...]
    """Layers where each changes the other's inputs more than their own adapter does: regions rather than a merge."""


@torch.no_grad()
def advise(recordings: Sequence[Recording], a: int, b: int) -> Advice:
    """By the output energies of both on both adapters' inputs."""
    total = total_crosstalk(recordings)
    there, back = float(total[a, b]), float(total[b, a])  # b's change over a's where a draws, and the reverse
    if not (there > 0 and back > 0):
        return Advice(a, b, None, None, ())
    ratio = (there / back) ** 0.5  # energy of b over that of a, mean of both places
    strengths = (1.0, ratio**-0.5) if ratio >= 1 else (ratio**0.5, 1.0)
    dominant = b if ratio >= DOMINANT else a if ratio <= 1 / DOMINANT else None
    scale = torch.tensor(strengths, dtype=torch.float64).square()
    route = []
    for name in recordings[0].energy:
        x = crosstalk(recordings, name)
        first, second = float(x[a, b] * scale[1] / scale[0]), float(x[b, a] * scale[0] / scale[1])
        if min(first, second) >= ROUTE:
            route.append((min(first, second), name))
    return Advice(a, b, dominant, strengths, tuple(name for _, name in sorted(route, reverse=True)))


@torch.no_grad()
def free_columns(columns: Sequence[Sequence[Tensor]], width: int, blocks: int) -> list[tuple[int, float]]:
    """(offset, share of ‖ΔW‖² of the adapter that uses it most) of the first blocks of `width` right singular vectors.

    columns: for each layer those of its adapters, see Seen.columns. The offset is that of Spectral Adapters
    (`column_offset`), in blocks; the least used comes first. Means over layers; layers with fewer columns do not count.
    """
    found = []
    for offset in range(blocks):
        start, stop = offset * width, (offset + 1) * width
        most = [
            max(float(own[start:stop].sum()) for own in layer) for layer in columns if layer and len(layer[0]) >= stop
        ]
        if most:
            found.append((offset, sum(most) / len(most)))
    return sorted(found, key=lambda block: (round(block[1], 6), block[0]))
