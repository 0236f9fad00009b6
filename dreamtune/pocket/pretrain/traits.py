"""What no caption tells about an individual, as numbers: the reader learns to see these too.

Thousands of individuals are few to learn from which details matter; their traits say it in every single picture.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..world import Subject
from ..world.scene import RGB

CELLS = 6
"""Spots are told as covered or not on a grid of so many cells a side, over the subject's -1..1."""
COUNT = 5 * 3 + 2 + 3 + 3 + 6 + 5 + CELLS**2
"""Numbers in a row of traits."""


def traits(subject: Subject) -> npt.NDArray[np.float32]:
    """(COUNT,) numbers of about -1..1; NaN for what the subject does not have (the colour of a collar it lacks).

    In order: coat, pattern, accent, collar and hat colour, whether there is a collar, eye, variant, kind of hat,
    proportions, stripes, spots.
    """
    s = subject
    striped, spotted = s.pattern == "striped", s.pattern == "spotted"
    angle, period, phase = s.stripes
    hat = [float(s.hat.kind == i) for i in range(3)] if s.hat else [math.nan] * 3
    stripes = [
        math.cos(2 * angle),
        math.sin(2 * angle),
        (period - 0.47) / 0.13,
        math.cos(2 * math.pi * (phase - 1.8 / period)),  # the phase at the subject's middle
        math.sin(2 * math.pi * (phase - 1.8 / period)),
    ]
    values = [
        *_color(s.rgb),
        *_color(None if s.pattern == "plain" else s.pattern_rgb),
        *_color(s.accent_rgb),
        *_color(s.collar_rgb),
        *_color(s.hat.rgb if s.hat else None),
        float(s.collar_rgb is not None),
        s.eye_rgb[2] / 127.5 - 1,  # blue tells the four kinds of eyes apart
        *(float(s.variant == i) for i in range(3)),
        *hat,
        *(2 * p - 1 for p in s.proportions),
        *(stripes if striped else [math.nan] * len(stripes)),
        *(_covered(s) if spotted else [math.nan] * CELLS**2),
    ]
    return np.asarray(values, dtype=np.float32)


def _color(rgb: RGB | None) -> list[float]:
    return [math.nan] * 3 if rgb is None else [c / 127.5 - 1 for c in rgb]


def _covered(subject: Subject) -> list[float]:
    """Whether a spot covers the centre of each cell."""
    at = (np.arange(CELLS) + 0.5) / CELLS * 2 - 1
    x, y, radius = (np.array(v)[:, None, None] for v in zip(*subject.spots, strict=True))
    inside = (at[None, None] - x) ** 2 + (at[None, :, None] - y) ** 2 < radius**2
    return inside.any(0).astype(np.float32).ravel().tolist()
