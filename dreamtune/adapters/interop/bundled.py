"""Embeddings that come with an adapter in one file, as A1111, kohya's scripts and OneTrainer bundle them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..parts import TEXT_ENCODERS
from .contents import BUNDLE

_PARTS = {
    "string_to_param.*": TEXT_ENCODERS[0],
    "emb_params": TEXT_ENCODERS[0],
    "clip_l": TEXT_ENCODERS[0],
    "clip_g": TEXT_ENCODERS[1],
}
"""What follows the word in a tensor's name -> the part whose vectors it holds."""
_WIDTHS = {TEXT_ENCODERS[0]: {768, 1024}, TEXT_ENCODERS[1]: {1280}}
_MOST_VECTORS = 75
"""CLIP reads 77 tokens, of which the first and the last are its own."""


@dataclass(frozen=True)
class Bundled:
    """A new word and its vectors; or why there are none."""

    word: str = ""
    vectors: dict[str, Tensor] = field(default_factory=dict)
    """Part -> (n, dim)"""
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Bundled:
        """Of the tensors `bundle_emb.<word>.<what>`; what cannot be a word's vectors is left out with a remark."""
        words: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            word, _, what = name.removeprefix(BUNDLE).partition(".")
            words.setdefault(word, {})[what] = tensor
        if not words:
            return cls()
        shown = ", ".join(repr(word) for word in sorted(words)[:3])
        if len(words) > 1:
            return cls(remarks=(f"the embeddings of {len(words)} words ({shown}) are left out: only one can be used",))
        ((word, given),) = words.items()
        vectors = {_PARTS[what]: t.reshape(-1, t.shape[-1]) for what, t in given.items() if what in _PARTS and t.ndim}
        counts = {len(tensor) for tensor in vectors.values()}
        fits = (
            len(vectors) == len(given)
            and word.split() == [word]
            and len(counts) == 1
            and counts <= set(range(1, _MOST_VECTORS + 1))
            and all(tensor.shape[1] in _WIDTHS[part] for part, tensor in vectors.items())
            and all(t.is_floating_point() and t.float().isfinite().all() for t in vectors.values())
        )
        if not fits:
            return cls(remarks=(f"the embeddings of {shown} are left out: they are no vectors of one word",))
        return cls(word, {part: tensor.float().contiguous() for part, tensor in vectors.items()})
