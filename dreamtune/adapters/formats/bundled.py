"""Embeddings that come with an adapter in one file, as A1111, kohya's scripts and OneTrainer bundle them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from torch import Tensor

from dreamtune.words import same

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
    """New words and their vectors; and why there are no others."""

    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Word -> part -> (n, dim), in the order of the words."""
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
        found: dict[str, dict[str, Tensor]] = {}
        twice, unfit = [], []
        for word, given in sorted(words.items()):
            vectors = _vectors(word, given, text_widths)
            if vectors is None or (found and _widths(vectors) != _widths(next(iter(found.values())))):
                unfit.append(word)
            elif any(same(word, known) for known in found):
                twice.append(word)
            else:
                found[word] = vectors
        remarks = [
            f"the embeddings of {_shown(left)} are left out: {why}"
            for left, why in (
                (unfit, "they do not fit one word of that base"),
                (twice, "the same word has others already"),
            )
            if left
        ]
        return cls(found, tuple(remarks))


def _vectors(word: str, given: Mapping[str, Tensor], text_widths: Set[int]) -> dict[str, Tensor] | None:
    """Part -> (n, dim) of one word, in fp32; None for what cannot be that."""
    vectors = {_PARTS[what]: t.reshape(-1, t.shape[-1]) for what, t in given.items() if what in _PARTS and t.ndim}
    counts = {len(tensor) for tensor in vectors.values()}
    bases = [_BASES.get(width) for width in text_widths or _BASES]
    fits = (
        len(vectors) == len(given)
        and word.split() == [word]
        and len(counts) == 1
        and counts <= set(range(1, _MOST_VECTORS + 1))
        and _widths(vectors) in bases
        and all(t.is_floating_point() and t.float().isfinite().all() for t in vectors.values())
    )
    return {part: tensor.float().contiguous() for part, tensor in vectors.items()} if fits else None


def _widths(vectors: Mapping[str, Tensor]) -> dict[str, int]:
    return {part: tensor.shape[1] for part, tensor in vectors.items()}


def _shown(words: Sequence[str]) -> str:
    names = ", ".join(repr(word) for word in words[:3])
    return names if len(words) == 1 else f"{len(words)} words ({names}{', ...' if words[3:] else ''})"
