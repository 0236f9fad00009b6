"""Several adapters without merging their weights: Multi-LoRA Composition (Zhong et al. 2024, arXiv 2402.16843)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dreamtune.adapters import AttachedAdapter

from .passes import Run, in_passes

TURN = 5
"""τ, the steps that each adapter has at a time; the paper's choice."""


def turn(step: int, adapters: int, every: int = TURN) -> int:
    """Which of k adapters acts at `step` (0, 1, ...), by LoRA Switch: i = ⌊(step mod kτ) / τ⌋, with τ = `every`."""
    return step % (adapters * every) // every


@contextmanager
def composite(unet: nn.Module, adapters: Sequence[AttachedAdapter]) -> Iterator[None]:
    """Within the block `unet` predicts the mean of its predictions with each of the `adapters` alone: LoRA Composite.

    ẽ(z, c) = 1/k Σᵢ [eᵢ(z) + s·(eᵢ(z, c) − eᵢ(z))], where eᵢ is the UNet with adapter i and s the guidance. An adapter
    at strength 0 takes no part; if all are, it is the plain base. One pass per adapter.
    """

    def predict(run: Run, _: Tensor, given: dict[str, Any]) -> Tensor:
        active = [it for it in adapters if it.strength]
        predictions = []
        for one in active:
            with ExitStack() as stack:
                for other in active:
                    if other is not one:
                        stack.enter_context(other.disabled())
                predictions.append(run())
        return sum(predictions[1:], predictions[0]) / len(active) if active else run()

    with in_passes(unet, predict):
        yield
