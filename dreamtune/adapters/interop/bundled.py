"""Embeddings that come with an adapter in one file, as A1111, kohya's scripts and OneTrainer bundle them."""

from __future__ import annotations

from collections.abc import Mapping, Set
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
_BASES: dict[int, dict[str, int]] = {
    768: {TEXT_ENCODERS[0]: 768},
    1024: {TEXT_ENCODERS[0]: 1024},
    2048: {TEXT_ENCODERS[0]: 768, TEXT_ENCODERS[1]: 1280},
}
"""Width of the text's states in SD 1.x, 2.x, XL -> width of each text encoder's vectors. A word needs all of them."""
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
    def of(cls, tensors: Mapping[str, Tensor], text_widths: Set[int]) -> Bundled:
        """Of the tensors `bundle_emb.<word>.<what>`; what cannot be a word's vectors is left out with a remark.

        text_widths: those that the adapter's layers tell, which say which base it is for; empty if none does.
        """
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
        bases = [_BASES.get(width) for width in text_widths or _BASES]
        fits = (
            len(vectors) == len(given)
            and word.split() == [word]
            and len(counts) == 1
            and counts <= set(range(1, _MOST_VECTORS + 1))
            and {part: t.shape[1] for part, t in vectors.items()} in bases
            and all(t.is_floating_point() and t.float().isfinite().all() for t in vectors.values())
        )
        if not fits:
            return cls(
                remarks=(f"the embeddings of {shown} are left out: they are no vectors of one word of that base",)
            )
        return cls(word, {part: tensor.float().contiguous() for part, tensor in vectors.items()})
