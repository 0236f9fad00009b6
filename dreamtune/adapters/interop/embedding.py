"""A new word's embeddings as the files of textual inversion that other tools read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..file import AdapterFile
from ..parts import TEXT_ENCODERS
from .tensors import Content

_KEYS = {1: ("emb_params",), 2: ("clip_l", "clip_g")}
"""By the number of text encoders: what A1111 and ComfyUI, and for one encoder diffusers, look for."""
_BUNDLED_KEYS = {1: ("string_to_param.*",), 2: _KEYS[2]}
"""What A1111 looks for behind `bundle_emb.<word>.`"""


def to_embedding(file: AdapterFile, dtype: torch.dtype) -> Content:
    """Tensors (n, dim), one for each text encoder, and no metadata; the word itself is the name under which it is read.

    Raises ConfigError if the adapter has no embeddings, and for values beyond `dtype`.
    """
    return _vectors(file, dtype, _KEYS), {}


def bundle_embedding(file: AdapterFile, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same as tensors to put into a file of kohya's format, where A1111 and Forge find the word with the adapter.

    Raises ConfigError as :func:`to_embedding`, and for a word that such a name cannot hold.
    """
    if "." in file.trigger or not file.trigger:
        raise ConfigError(f"{file.trigger!r} is no name for bundled embeddings: export them as embedding instead")
    return {f"bundle_emb.{file.trigger}.{key}": t for key, t in _vectors(file, dtype, _BUNDLED_KEYS).items()}


def _vectors(file: AdapterFile, dtype: torch.dtype, keys: Mapping[int, tuple[str, ...]]) -> dict[str, Tensor]:
    if not file.embeddings:
        raise ConfigError("the adapter has no embeddings of its own: it was trained without pivotal")
    parts = [part for part in TEXT_ENCODERS if part in file.embeddings]
    tensors = {
        key: file.tensors[f"embedding.{part}"].to(dtype).contiguous()
        for key, part in zip(keys[len(parts)], parts, strict=True)
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ConfigError(f"the embeddings do not fit into {dtype}: use fp32 or bf16")
    return tensors
