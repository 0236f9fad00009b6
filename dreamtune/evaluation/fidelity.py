"""Subject and prompt fidelity on the embedded base, by its evaluators.

Subject fidelity sets likeness (cosine of identity embeddings, as DINO and CLIP-I in the DreamBooth paper,
arXiv 2208.12242, section 4.1) between two anchors: 0 is what the base draws for the bare class, 1 what real pictures
of the subject reach among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..pocket.evaluators import Found, Reading
from ..pocket.world import CLASSES, COLORS, CONTEXTS, Subject


@dataclass(frozen=True)
class SubjectFidelity:
    """Mean cosines to reference pictures of the subject."""

    generated: float
    base: float
    """Pictures of the bare class by the base: what there is without any training."""
    real: float
    """Other real pictures of the subject."""

    @property
    def share(self) -> float:
        """(generated - base) / (real - base): 0 is the base, 1 real pictures; may lie outside. NaN if real = base."""
        span = self.real - self.base
        return (self.generated - self.base) / span if span else float("nan")


def subject_fidelity(generated: Tensor, base: Tensor, real: Tensor, references: Tensor) -> SubjectFidelity:
    """Fidelity from identity embeddings, (n, width) unit rows each; `real` must not hold pictures of `references`.

    Raises ValueError when one of them is empty.
    """
    for name, rows in (("generated", generated), ("base", base), ("real", real), ("references", references)):
        if not len(rows):
            raise ValueError(f"no pictures in {name!r}: a mean needs at least one")
    return SubjectFidelity(*(float((rows @ references.T).mean()) for rows in (generated, base, real)))


def has_context(reading: Reading, prompt: str) -> bool | None:
    """Whether the picture has the context that the prompt names; None if it names none that the world knows."""
    for name, words in CONTEXTS.items():
        if prompt.endswith(words):
            return reading.context == name
    return None


def prompt_fidelity(readings: Sequence[Reading], prompts: Sequence[str], subject: Subject | None = None) -> float:
    """Share of what the prompts ask for that the pictures show: context, class, and the class's colour if named.

    subject: when the prompts mean an individual ("a sks cat"), its class is asked for too, and its colour is not.
    Raises ValueError when the prompts ask for nothing that can be read.
    """
    shown: list[bool] = []
    for reading, prompt in zip(readings, prompts, strict=True):
        context = has_context(reading, prompt)
        if context is not None:
            shown.append(context)
        shown += _attributes(reading.main, prompt.split(), subject)
    if not shown:
        raise ValueError("the prompts name no class, colour or context of the pocket world")
    return float(torch.tensor(shown, dtype=torch.float32).mean())


def _attributes(found: Found, words: list[str], subject: Subject | None) -> list[bool]:
    result: list[bool] = []
    for before, word in zip(["", *words], words, strict=False):
        if word in CLASSES:
            result.append(found.cls == word)
            if before in COLORS and subject is None:
                result.append(before in found.colors)
            break
    return result
