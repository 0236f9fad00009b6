import math

import pytest
import torch

from dreamtune.analysis.effects import agreement, kept
from tests.analysis.truth import generator


def test_agreement_is_the_cosine_and_not_defined_for_nothing() -> None:
    one, other = torch.randn(2, 500, generator=generator(0))
    assert agreement(one, 3 * one) == pytest.approx(1, rel=1e-5)
    assert agreement(one, -one) == pytest.approx(-1, rel=1e-5)
    assert abs(agreement(one, other)) < 0.2
    assert math.isnan(agreement(one, torch.zeros(500)))


def test_kept_are_the_shares_of_each_in_what_both_do() -> None:
    one, other, noise = torch.randn(3, 2000, generator=generator(1))
    assert kept(one + other, one, other) == pytest.approx((1, 1), rel=1e-4)
    assert kept(0.25 * one + 0.8 * other + 0.1 * noise, one, other) == pytest.approx((0.25, 0.8), abs=0.02)
    assert kept(one, one, other) == pytest.approx((1, 0), abs=1e-4)


def test_what_is_kept_of_two_that_do_the_same_is_not_defined() -> None:
    one = torch.randn(300, generator=generator(2))
    assert all(math.isnan(share) for share in kept(one, one, 2 * one))
    assert all(math.isnan(share) for share in kept(one, one, torch.zeros(300)))
