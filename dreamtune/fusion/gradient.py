"""Gradient fusion (Mix-of-Show, Gu et al., arXiv 2305.18292) in closed form, for one layer.

Mix-of-Show looks for the W that does to each adapter's inputs Xᵢ what W0 + ΔWᵢ does: it minimises
Σ λᵢ ‖(W - W0 - ΔWᵢ) Xᵢ‖² with L-BFGS. That is least squares: with Cᵢ = Xᵢ Xᵢᵀ / nᵢ,
ΔW = (Σ λᵢ ΔWᵢ Cᵢ + ε M) (Σ λᵢ Cᵢ + ε I)⁻¹. Directions that no input has are left to M, the mean of the changes, where
L-BFGS starts as well, and to which the ridge ε draws: one adapter comes out as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .delta import Delta
from .methods import Part, added

RIDGE = 1e-3
"""ε as a share of the mean of the eigenvalues of Σ λᵢ Cᵢ."""


@dataclass
class Moments:
    """C = X Xᵀ / n of the inputs that layers got, summed up as they come: (in, in) a layer, in fp32."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, layer: str, x: Tensor) -> None:
        """Count inputs x (..., in) of `layer`."""
        rows = x.detach().float().flatten(0, -2)  # (tokens, in)
        total = rows.T @ rows
        self.sums[layer] = self.sums[layer] + total if layer in self.sums else total
        self.counts[layer] = self.counts.get(layer, 0) + len(rows)

    def of(self, layer: str) -> Tensor:
        """C (in, in) of `layer` on the CPU. Raises KeyError if it got no input."""
        return (self.sums[layer] / self.counts[layer]).cpu()


@contextmanager
def recorded(layers: Mapping[str, nn.Module]) -> Iterator[Moments]:
    """Within the block, record the inputs of `layers` (name -> module)."""
    moments = Moments()
    with ExitStack() as stack:
        for name, layer in layers.items():

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                moments.add(name, inputs[0])

            stack.callback(layer.register_forward_pre_hook(hook).remove)
        yield moments


@torch.no_grad()
def fuse_gradient(parts: Sequence[Part], moments: Sequence[Tensor]) -> Delta:
    """ΔW whose outputs on every adapter's own inputs are nearest to that adapter's, by λ.

    moments: C (in, in) of each part's inputs. λ says how much its inputs matter, it does not scale its change; it must
    be positive. Raises ValueError otherwise.
    """
    if any(part.weight <= 0 for part in parts):
        raise ValueError("the weights of gradient fusion say how much inputs matter: they must be positive")
    if len(parts) == 1:
        return parts[0].delta
    weights = [part.weight / sum(it.weight for it in parts) for part in parts]
    mean = added([part.delta.scaled(weight) for part, weight in zip(parts, weights, strict=True)]).dense().double()
    total = sum((w * c.double() for w, c in zip(weights, moments, strict=True)), torch.zeros((), dtype=torch.float64))
    ridge = RIDGE * float(total.diagonal().mean())
    # solved for what is to be added to the mean: its right side is small where the adapters agree
    missing = torch.zeros_like(mean)
    for part, weight, moment in zip(parts, weights, moments, strict=True):
        missing += (part.delta.dense().double() - mean) @ (weight * moment.double())
    if ridge == 0:  # no inputs but zeros
        return Delta.of_matrix(mean.float())
    total.diagonal().add_(ridge)
    return Delta.of_matrix((mean + torch.linalg.solve(total, missing.T).T).float())
