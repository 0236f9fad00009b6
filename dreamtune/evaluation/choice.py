"""Which step of a training to keep: a rule on the curve of its scores."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PROMPT_SHARE = 0.9
"""Prompt fidelity must be at least this share of the base's."""
MAX_LEAK = 0.3
"""The class may have gone at most this far of the way to the subject."""
MARGIN = 0.05
"""A later step must be better by more than this: what few pictures cannot tell apart is no reason to train longer."""


@dataclass(frozen=True)
class Score:
    """What the pictures of one step say; see :class:`~dreamtune.evaluation.exam.Measurement`."""

    step: int
    """Optimizer steps done."""
    subject: float
    """Subject fidelity; NaN where the judge cannot tell the subject from its class."""
    prompt: float
    """Prompt fidelity; NaN where it cannot be told, which then does not count."""
    prompt_base: float
    leak: float
    drift: float

    @property
    def acceptable(self) -> bool:
        """Whether prompts are followed as before (PROMPT_SHARE) and the class has been left alone (MAX_LEAK)."""
        follows = math.isnan(self.prompt) or self.prompt >= PROMPT_SHARE * self.prompt_base
        return follows and math.isfinite(self.subject) and self.leak <= MAX_LEAK

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded; None for NaN."""
        return {name: rounded(value) for name, value in vars(self).items()} | {"acceptable": self.acceptable}


def rounded(value: float) -> float | None:
    """Four digits; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, 4)


class Choice:
    """Follows a curve point by point: which step is the best so far, and since when nothing better has come.

    The first acceptable step is taken, and then each acceptable one whose subject fidelity is higher by more than
    MARGIN than that of the best so far. What it takes at a step depends on that step and the earlier ones alone, so
    the weights can be stored when they are the best.
    """

    def __init__(self, scores: Iterable[Score] = ()) -> None:
        """Start with the scores of earlier steps, in their order."""
        self.best: Score | None = None
        self.waited = 0
        """Points since the best one."""
        for score in scores:
            self.add(score)

    def add(self, score: Score) -> bool:
        """Take the next point; True if it is the best so far."""
        better = score.acceptable and (self.best is None or score.subject > self.best.subject + MARGIN)
        if better:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        return better

    def exhausted(self, patience: int) -> bool:
        """Whether there is a best step and the last `patience` points (0: any number) brought no better one."""
        return bool(patience) and self.best is not None and self.waited >= patience
