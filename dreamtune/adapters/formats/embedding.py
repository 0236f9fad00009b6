"""A new word's embeddings as the files of textual inversion that other tools read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamtune.errors import ConfigError
from dreamtune.words import same

from ..file import AdapterFile
from ..parts import TEXT_ENCODERS
from .contents import BUNDLE
from .tensors import Content

_KEYS = {1: ("emb_params",), 2: ("clip_l", "clip_g")}
"""By the number of text encoders: what A1111 and ComfyUI, and for one encoder diffusers, look for."""
_BUNDLED_KEYS = {1: ("string_to_param.*",), 2: _KEYS[2]}
"""What A1111 looks for behind `bundle_emb.<word>.`"""
_NONE = "the adapter has no embeddings: it was trained without pivotal"


def to_embedding(file: AdapterFile, dtype: torch.dtype, word: str | None = None) -> Content:
    """Tensors (n, dim), one for each text encoder, and no metadata; the word itself is the name under which it is read.

    word: which one, needed where several have embeddings. Raises ConfigError if the adapter has none, of that word or
    at all, and for values beyond `dtype`.
    """
    return _tensors(_vectors_of(file, word), dtype, _KEYS), {}


def bundle_embeddings(file: AdapterFile, dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of all words as tensors to put into a file of kohya's format, where A1111 and Forge find them.

    Raises ConfigError as :func:`to_embedding`, and for a word that such a name cannot hold.
    """
    if not file.vectors:
        raise ConfigError(_NONE)
    found = {}
    for word, own in file.vectors.items():
        if "." in word or not word:
            raise ConfigError(f"{word!r} cannot name bundled embeddings: export them in the format embedding instead")
        found |= {f"{BUNDLE}{word}.{key}": tensor for key, tensor in _tensors(own, dtype, _BUNDLED_KEYS).items()}
    return found


def _vectors_of(file: AdapterFile, word: str | None) -> Mapping[str, Tensor]:
    """Text encoder -> embeddings of the word that is meant. Raises ConfigError."""
    known, names = file.vectors, " and ".join(map(repr, file.vectors))
    if not known:
        raise ConfigError(_NONE)
    if word is None and len(known) > 1:
        raise ConfigError(
            f"the adapter has embeddings of {names}, but such a file holds one word: choose one with --token"
        )
    found = [own for it, own in known.items() if word is None or same(it, word)]
    if not found:
        raise ConfigError(f"the adapter has no embeddings of {word!r}, only of {names}")
    return found[0]


def _tensors(
    vectors: Mapping[str, Tensor], dtype: torch.dtype, keys: Mapping[int, tuple[str, ...]]
) -> dict[str, Tensor]:
    parts = [part for part in TEXT_ENCODERS if part in vectors]
    tensors = {key: vectors[part].to(dtype).contiguous() for key, part in zip(keys[len(parts)], parts, strict=True)}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ConfigError(f"the embeddings do not fit into {dtype}: use fp32 or bf16")
    return tensors
