"""A prompt's conditioning of the UNet, as tensors that can be cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """One prompt as the UNet sees it, fp32 on any device."""

    embedding: Tensor
    """(tokens, dim) hidden states of the text encoder (of both, side by side, for SDXL)."""
    pooled: Tensor | None = None
    """(dim,) pooled state of SDXL's second text encoder; None for other bases."""

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """The same elsewhere, or in another precision."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Conditioning(self.embedding.to(device, dtype), pooled)


def unet_inputs(prompts: Sequence[Conditioning], time_ids: Tensor | None = None) -> dict[str, Any]:
    """Keyword arguments of a diffusers UNet for a batch of n prompts.

    time_ids: (n, 6) SDXL's micro-conditioning of each picture (original height and width, top and left of the crop,
    target height and width in pixels), needed when the prompts have a pooled state. Raises ValueError without it.
    """
    inputs: dict[str, Any] = {"encoder_hidden_states": torch.stack([p.embedding for p in prompts])}
    pooled = [p.pooled for p in prompts if p.pooled is not None]
    if pooled:
        if time_ids is None:
            raise ValueError("these prompts have pooled embeddings: the UNet also needs time_ids (n, 6)")
        inputs["added_cond_kwargs"] = {"text_embeds": torch.stack(pooled), "time_ids": time_ids}
    return inputs


def pipeline_inputs(start: str, prompts: Sequence[Conditioning]) -> dict[str, Tensor]:
    """Arguments of a diffusers pipeline; `start` begins the names of those that guidance leads away from."""
    inputs = {f"{start}prompt_embeds": torch.stack([prompt.embedding for prompt in prompts])}
    pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
    return inputs | ({f"{start}pooled_prompt_embeds": torch.stack(pooled)} if pooled else {})
