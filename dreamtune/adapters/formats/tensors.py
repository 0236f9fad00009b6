"""What the formats of other tools share: names of tensors, the scale, rounding, and what they show of a file."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..base import Adapter
from ..file import AdapterFile

Content = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata of a safetensors file."""
LOHA = {"up1": "hada_w1_a", "down1": "hada_w1_b", "up2": "hada_w2_a", "down2": "hada_w2_b"}
LOKR = {
    "w1": "lokr_w1",
    "up1": "lokr_w1_a",
    "down1": "lokr_w1_b",
    "w2": "lokr_w2",
    "up2": "lokr_w2_a",
    "down2": "lokr_w2_b",
}
"""Our name of a tensor -> LyCORIS', which PEFT and ComfyUI have too."""


def alpha_of(adapter: Adapter) -> float:
    """The alpha that over the rank is the scale, rank-stabilized or not."""
    config = adapter.config
    return config.scale * config.rank if config.rslora else config.alpha


def cast(tensor: Tensor, dtype: torch.dtype, path: str) -> Tensor:
    """In `dtype`, as a file keeps it. Raises ConfigError for values of layer `path` beyond it."""
    rounded = tensor.detach().to(dtype).contiguous()
    if not rounded.isfinite().all():
        raise ConfigError(f"the values of layer {path} do not fit into {dtype}: use fp32 or bf16")
    return rounded


def shown(file: AdapterFile) -> dict[str, str]:
    """The metadata that other tools show."""
    return {key: value for key, value in file.to_header().items() if key.startswith(("modelspec.", "ss_"))}
