"""The learning rate's course."""

import itertools
import math
from typing import get_args

import pytest

from dreamtune.training.optimizers import lr_factor
from dreamtune.training.settings import Schedule


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


def test_linear_falls_by_the_same_amount_each_step() -> None:
    factors = [lr_factor(step, 10, "linear", 2) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, *(1 - n / 8 for n in range(8))])


def test_restarts_are_so_many_cosines() -> None:
    factors = [lr_factor(step, 34, "cosine-restarts", 4, cycles=3) for step in range(34)]
    one = [lr_factor(step, 10, "cosine") for step in range(10)]
    assert factors[4:] == pytest.approx(one * 3)
    assert [lr_factor(step, 20, "cosine-restarts") for step in range(20)] == [
        lr_factor(step, 20, "cosine") for step in range(20)
    ]


@pytest.mark.parametrize("kind", get_args(Schedule))
def test_no_step_is_wasted(kind: Schedule) -> None:
    """Warm-up longer or shorter, cycles that do not divide the steps: every step moves the weights, none too far."""
    for steps, warmup, cycles in itertools.product((1, 2, 37, 100), (0, 1, 36), (1, 3, 7, 50)):
        factors = [lr_factor(step, steps, kind, min(warmup, steps - 1), cycles) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors), (steps, warmup, cycles)
