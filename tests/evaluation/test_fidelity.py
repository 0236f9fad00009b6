"""Subject fidelity and its anchors."""

import math

import pytest
import torch

from dreamtune.evaluation import subject_fidelity
from dreamtune.evaluation.fidelity import likeness, likeness_among, movement


def rows(*angles: float) -> torch.Tensor:
    return torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in angles])


def test_base_is_zero_real_pictures_are_one() -> None:
    base, real, references = rows(1.2, 1.2), rows(0.1, 0.1), rows(0.0, 0.0)
    assert subject_fidelity(base, base, references, real).share == pytest.approx(0.0, abs=1e-6)
    assert subject_fidelity(real, base, references, real).share == pytest.approx(1.0)
    assert 0 < subject_fidelity(rows(0.8), base, references, real).share < 1


def test_likeness_is_the_mean_over_all_pairs() -> None:
    expected = (math.cos(0.1) + math.cos(0.4) + math.cos(0.2) + math.cos(0.1)) / 4
    assert likeness(rows(0.1, 0.4), rows(0.0, 0.3)) == pytest.approx(expected)


def test_a_reference_is_not_compared_with_itself() -> None:
    assert likeness_among(rows(0.0, 0.3, 0.5)) == pytest.approx((math.cos(0.3) + math.cos(0.5) + math.cos(0.2)) / 3)
    found = subject_fidelity(rows(0.2), rows(1.2), rows(0.0, 0.3, 0.5))
    assert found.real == pytest.approx(likeness_among(rows(0.0, 0.3, 0.5)))


def test_no_share_where_there_is_nothing_to_measure_between() -> None:
    assert math.isnan(subject_fidelity(rows(0.1), rows(1.2), rows(0.0)).share), "one real picture has no other"
    assert math.isnan(subject_fidelity(rows(0.1), rows(0.0), rows(0.0), rows(0.5)).share), "the base is as near"


def test_movement_is_of_each_picture() -> None:
    assert movement(rows(0.0, 0.5), rows(0.0, 0.8)).tolist() == pytest.approx([0.0, 1 - math.cos(0.3)], abs=1e-6)


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pictures: a mean"):
        subject_fidelity(rows(0.0)[:0], rows(0.0), rows(0.0))
    with pytest.raises(ValueError, match="no references"):
        likeness(rows(0.0), rows(0.0)[:0])
