"""The learning rate's course as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal


def lr_factor(step: int, steps: int, kind: Literal["constant", "cosine"], warmup: int = 0) -> float:
    """Factor on the peak learning rate for optimizer step `step` (0, 1, ..., steps - 1), never 0 within a run.

    Linear warm-up (step + 1) / (warmup + 1), then 1, or for "cosine" (1 + cos(pi p)) / 2 with p running from 0
    to 1 at `steps`, one step after the last.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
