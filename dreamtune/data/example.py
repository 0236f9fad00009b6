"""One picture as training sees it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A picture and the numbers of its prompts; CPU tensors, fp32."""

    latent: Tensor
    """(c, h, w), scaled; h and w are those of its bucket."""
    prompts: tuple[int, ...]
    """Rows in the list of prompts that belongs to the examples; it has one of them each time it is seen."""
    mask: Tensor | None = None
    """(h, w) weight of each latent cell in the loss, 0 to 1; None weighs all alike."""
    time_ids: Tensor | None = None
    """(6,) SDXL's micro-conditioning: original height and width, top and left of the crop, target height and width."""
