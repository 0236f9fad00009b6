import math

import pytest
import torch

from dreamtune.adapters import Delta
from dreamtune.analysis.overlap import (
    cosine,
    excess_sign_conflict,
    hypergeometric,
    norm_ratio,
    rank_biased_overlap,
    spearman,
    subspace_similarity,
)
from tests.analysis.truth import SHAPE, generator, random_change

ZERO = Delta.of_matrix(torch.zeros(SHAPE))


def test_rank_biased_overlap_of_a_worked_example() -> None:
    a, b = torch.tensor([1, 2, 3]), torch.tensor([1, 3, 9])
    p, agreements = 0.9, (1, 1 / 2, 2 / 3)
    expected = agreements[2] * p**3 + (1 - p) / p * sum(x * p**d for d, x in enumerate(agreements, 1))
    assert rank_biased_overlap(a, b) == pytest.approx(expected)
    assert rank_biased_overlap(a, a) == pytest.approx(1)
    assert rank_biased_overlap(a, b + 100) == 0
    assert rank_biased_overlap(a, a[:0]) is None


def test_early_ranks_count_more() -> None:
    early, late = (
        rank_biased_overlap(torch.tensor([1, 2, 3]), torch.tensor([1, 8, 9])),
        rank_biased_overlap(torch.tensor([1, 2, 3]), torch.tensor([8, 9, 1])),
    )
    assert early is not None and late is not None and early > late


def test_spearman_with_ties() -> None:
    assert spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0])) == pytest.approx(0.5)
    assert spearman(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([5.0, 5.0, 7.0])) == pytest.approx(1)
    assert spearman(torch.ones(3), torch.arange(3.0)) is None


def test_hypergeometric_is_a_distribution_with_the_known_mean() -> None:
    probabilities = hypergeometric(320, 8)
    assert sum(probabilities) == pytest.approx(1)
    assert sum(m * p for m, p in enumerate(probabilities)) == pytest.approx(64 / 320)
    assert hypergeometric(8, 8) == (0, 0, 0, 0, 0, 0, 0, 0, 1)
    with pytest.raises(ValueError, match="between 1 and n"):
        hypergeometric(4, 8)


def test_subspaces() -> None:
    basis = torch.linalg.qr(torch.randn(50, 6, generator=generator(0), dtype=torch.float64)).Q
    assert subspace_similarity(basis[:, :2], basis) == pytest.approx(1)
    assert subspace_similarity(basis[:, :3], basis[:, 3:]) == pytest.approx(0, abs=1e-12)
    assert subspace_similarity(basis[:, :3], basis[:, 2:5]) == pytest.approx(1 / 3)
    assert subspace_similarity(basis[:, :0], basis) is None


def test_cosine_and_norm_ratio_are_those_of_the_matrices() -> None:
    a, b = random_change(1), random_change(2, rank=7)
    expected = (a.dense() * b.dense()).sum() / (a.dense().norm() * b.dense().norm())
    assert cosine(a, b) == pytest.approx(float(expected), abs=1e-6)
    assert cosine(a, Delta.of_matrix(-2 * a.dense())) == pytest.approx(-1)
    assert norm_ratio(a, b) == pytest.approx(float(a.dense().norm() / b.dense().norm()))
    assert cosine(a, ZERO) is norm_ratio(a, ZERO) is None


def test_sign_conflict_beyond_the_cosine() -> None:
    source = generator(0)
    a, noise = (torch.randn(400, 300, generator=source) for _ in range(2))
    assert excess_sign_conflict(a, 0.6 * a + 0.8 * noise) == pytest.approx(0, abs=0.01)
    assert excess_sign_conflict(a, a) == pytest.approx(0, abs=1e-3)
    large = a.abs() > a.abs().median()  # agree where it is large, fight where it is small
    correlation = float((a * torch.where(large, a, -a)).sum() / a.norm() ** 2)
    expected = 0.5 - math.acos(correlation) / math.pi
    assert excess_sign_conflict(a, torch.where(large, a, -a)) == pytest.approx(expected, abs=1e-3)
    assert expected > 0.1
    assert excess_sign_conflict(a, torch.zeros_like(a)) is None
