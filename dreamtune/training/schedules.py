"""The learning rate's course as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "cosine-restarts"]


def lr_factor(step: int, steps: int, kind: Schedule, warmup: int = 0, cycles: int = 1) -> float:
    """Factor on the peak learning rate for optimizer step `step` (0, 1, ..., steps - 1), never 0 within a run.

    Linear warm-up (step + 1) / (warmup + 1), then with p running from 0 to 1 at `steps`, one step after the last:
    "constant" 1, "linear" 1 - p, "cosine" (1 + cos(pi p)) / 2, and "cosine-restarts" the latter `cycles` times one
    after the other, each from 1 (Loshchilov and Hutter, arXiv 1608.03983, equation 5, with equal periods).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done, left = step - warmup, max(1, steps - warmup)
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1.0 - done / left
    if kind == "cosine-restarts":
        done = done * cycles % left  # of a cycle that takes `left` steps of 1/cycles: integers, so that it is exact
    return 0.5 * (1.0 + math.cos(math.pi * done / left))
