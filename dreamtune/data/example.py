"""One picture as training sees it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A picture and the number of its prompt; CPU tensors, fp32."""

    latent: Tensor
    """(c, h, w), scaled; h and w are those of its bucket."""
    prompt: int
    """Row in the list of prompts that belongs to the examples."""
    mask: Tensor | None = None
    """(h, w) weight of each latent cell in the loss, 0 to 1; None weighs all alike."""
    time_ids: Tensor | None = None
    """(6,) SDXL's micro-conditioning: original height and width, top and left of the crop, target height and width."""
