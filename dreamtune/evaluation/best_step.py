"""Which step of a training to keep: a rule on the curve of its scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from .evaluation import Measurement

PROMPT_SHARE = 0.9
"""Prompt fidelity must be at least this share of the base's."""
MAX_LEAK = 0.3
"""The class may have gone at most this far of the way to the subject."""
MARGIN = 0.02
"""A later step must be better by more than this: what few pictures cannot tell apart is no reason to train longer."""


_DIGITS = 4


@dataclass(frozen=True)
class Score:
    """Scores of the images of one step; see :class:`~dreamtune.evaluation.evaluation.Measurement`."""

    step: int
    """Optimizer steps done."""
    subject: float
    """Subject fidelity; NaN where the judge cannot tell the subject from its class."""
    prompt: float
    """Prompt fidelity; NaN where it cannot be told, which then does not count."""
    prompt_base: float
    leak: float
    drift: float

    @classmethod
    def of(cls, step: int, measured: Measurement) -> Self:
        """From pictures; rounded as in files, so that reading them again leads to the same choice."""
        figures = (
            measured.subject.share,
            measured.prompt,
            measured.prompt_base,
            measured.class_word.share,
            measured.drift,
        )
        return cls(step, *(round(value, _DIGITS) + 0.0 for value in figures))  # + 0.0: no -0.0

    @classmethod
    def missing(cls, step: int) -> Self:
        """Of a step whose pictures could not be drawn: never acceptable."""
        return cls(step, *[math.nan] * 5)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Undo :meth:`to_dict`. Raises KeyError for a missing figure."""
        plain: dict[str, Any] = {field.name: values[field.name] for field in fields(cls)}
        plain |= {name: math.nan for name, value in plain.items() if value is None}
        return cls(**plain)

    def __str__(self) -> str:
        """All on one line."""
        return (
            f"step {self.step}: subject {self.subject:.2f}, prompt {self.prompt:.2f} (base {self.prompt_base:.2f}), "
            f"leak {self.leak:.2f}, drift {self.drift:.2f}"
        )

    @property
    def acceptable(self) -> bool:
        """Whether prompts are followed as before (PROMPT_SHARE) and the class has been left alone (MAX_LEAK)."""
        follows = math.isnan(self.prompt) or self.prompt >= PROMPT_SHARE * self.prompt_base
        return follows and math.isfinite(self.subject) and self.leak <= MAX_LEAK

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded; None for NaN."""
        figures = {name: rounded(value) for name, value in vars(self).items() if name != "step"}
        return {"step": self.step, **figures, "acceptable": self.acceptable}


def rounded(value: float) -> float | None:
    """Four digits; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(value, _DIGITS) + 0.0  # no -0.0


class BestStep:
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
