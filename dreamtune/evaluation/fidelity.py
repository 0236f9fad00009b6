"""Figures from identity embeddings: how much pictures show the subject, and how far an adapter moves its class.

All embeddings are unit rows (n, width), so that products are cosines. Likeness is the mean cosine over all pairs, as
DINO and CLIP-I in the DreamBooth paper (Ruiz et al. 2023, arXiv 2208.12242, section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


def likeness(pictures: Tensor, references: Tensor) -> float:
    """Mean cosine of every picture with every reference. Raises ValueError when one of them is empty."""
    for name, rows in (("pictures", pictures), ("references", references)):
        if not len(rows):
            raise ValueError(f"no {name}: a mean needs at least one")
    return float((pictures @ references.T).mean())


def likeness_among(rows: Tensor) -> float:
    """Mean cosine of every picture with every other one: each is left out once and compared with the rest.

    NaN for a single picture, which has no other.
    """
    n = len(rows)
    if n < 2:
        return math.nan
    cosines = rows @ rows.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1)))


def movement(before: Tensor, after: Tensor) -> Tensor:
    """(n,) 1 - cosine of picture i before and after: 0 where nothing has changed."""
    return 1 - (before * after).sum(-1)


@dataclass(frozen=True)
class SubjectFidelity:
    """Likenesses to reference pictures of the subject."""

    generated: float
    base: float
    """Of pictures of the bare class by the base: what there is without any training."""
    real: float
    """Of other real pictures of the subject; NaN without any."""

    @property
    def share(self) -> float:
        """(generated - base) / (real - base): 0 is the base, 1 real pictures; may lie outside.

        NaN unless real pictures are more alike than the base's are: the encoder then cannot tell the subject from
        its class, or there is only one real picture.
        """
        span = self.real - self.base
        return (self.generated - self.base) / span if span > 0 else math.nan


def subject_fidelity(
    generated: Tensor, base: Tensor, references: Tensor, real: Tensor | None = None
) -> SubjectFidelity:
    """Fidelity from identity embeddings.

    real: of pictures of the subject that are not among `references`; without them each reference is compared with the
    others. Raises ValueError when one of the others is empty.
    """
    upper = likeness_among(references) if real is None else likeness(real, references)
    return SubjectFidelity(likeness(generated, references), likeness(base, references), upper)
