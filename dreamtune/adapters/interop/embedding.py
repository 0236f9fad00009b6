"""A new word's embeddings as the files of textual inversion that other tools read."""

from __future__ import annotations

import torch

from dreamtune.errors import ConfigError

from ..file import AdapterFile
from ..parts import TEXT_ENCODERS
from .tensors import Content

_KEYS = {1: ("emb_params",), 2: ("clip_l", "clip_g")}
"""By the number of text encoders: what A1111 and ComfyUI, and for one encoder diffusers, look for."""


def to_embedding(file: AdapterFile, dtype: torch.dtype) -> Content:
    """Tensors (n, dim), one for each text encoder, and no metadata; the word itself is the name under which it is read.

    Raises ConfigError if the adapter has no embeddings, and for values beyond `dtype`.
    """
    if not file.embeddings:
        raise ConfigError("the adapter has no embeddings of its own: it was trained without pivotal")
    parts = [part for part in TEXT_ENCODERS if part in file.embeddings]
    tensors = {
        key: file.tensors[f"embedding.{part}"].to(dtype).contiguous()
        for key, part in zip(_KEYS[len(parts)], parts, strict=True)
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ConfigError(f"the embeddings do not fit into {dtype}: use fp32 or bf16")
    return tensors, {}
