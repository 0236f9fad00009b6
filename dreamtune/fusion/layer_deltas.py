"""One layer's share of every adapter that is fused, and what all fusions do with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamtune.adapters.delta import Delta
from dreamtune.errors import ConfigError


@dataclass(frozen=True, eq=False)
class LayerDelta:
    """One adapter's share in a layer."""

    delta: Delta
    weight: float
    """λ, not 0."""
    seed: int = 0
    """For what is drawn at random; the adapter's own, so that its place among the others does not matter."""
    inputs: Tensor | None = None
    """C = E[x xᵀ] (in, in) of what the layer gets while this adapter is used; see Moments."""
    kept: Tensor | None = None
    """The same of captions that have nothing to do with any subject; one for all parts."""

    @property
    def weighted(self) -> Delta:
        """λ·ΔW."""
        return self.delta.scaled(self.weight)

    @property
    def moment(self) -> Tensor:
        """C (in, in) in fp64. Raises ConfigError if nothing was recorded."""
        if self.inputs is None:
            raise ConfigError("this fusion needs recorded layer inputs of each adapter: pass inputs")
        return self.inputs.double()


Fusion = Callable[[Sequence[LayerDelta], float], Delta]
"""[(λ₁, ΔW₁), ...], density -> ΔW, for one layer."""


def added(deltas: Sequence[Delta]) -> Delta:
    """Their exact sum."""
    if len(deltas) == 1:
        return deltas[0]
    if sum(it.columns for it in deltas) < min(deltas[0].shape):
        return Delta(torch.cat([it.up for it in deltas], 1), torch.cat([it.down for it in deltas]))
    return Delta.of_matrix(torch.stack([it.dense() for it in deltas]).sum(0))


def balanced(parts: Sequence[LayerDelta], by: str) -> list[LayerDelta]:
    """Every ΔW brought to the geometric mean of their sizes in this layer; those that are 0 stay, and do not count.

    by: "weights" for the size ‖ΔW‖, "output" for √tr(ΔW C ΔWᵀ), the mean change of the output on the adapter's own
    inputs. Raises ConfigError for the latter where no inputs were recorded.
    """
    if len(parts) == 1:
        return list(parts)
    sizes = [part.delta.norm if by == "weights" else part.delta.output_norm(part.moment) for part in parts]
    logs = torch.tensor([size for size in sizes if size > 0], dtype=torch.float64).log()
    mean = float(logs.mean().exp()) if len(logs) else 0.0
    return [
        replace(part, delta=part.delta.scaled(mean / size)) if size > 0 else part
        for part, size in zip(parts, sizes, strict=True)
    ]
