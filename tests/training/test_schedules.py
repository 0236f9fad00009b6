"""The learning rate's course."""

import itertools
import math

import pytest

from dreamtune.training.schedules import lr_factor


def test_constant_after_warmup() -> None:
    factors = [lr_factor(step, 10, "constant", 3) for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_cosine_falls_from_one_and_never_reaches_zero_within_the_run() -> None:
    factors = [lr_factor(step, 100, "cosine", 20) for step in range(100)]
    assert factors[20] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 79 / 80)))
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[20:]))
    assert min(factors) > 0
