import pytest
import torch

from dreamtune.adapters import Delta
from dreamtune.analysis import change_rates, tsd
from dreamtune.analysis.directions import accuracy, amplification, position, recall
from tests.analysis.truth import SHAPE, along, decomposed, random_change, random_weight

INDICES = [40, 3, 63, 17, 0, 55, 29, 8]
RATES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


def test_chosen_directions_and_their_rates_are_found() -> None:
    svd = decomposed(random_weight())
    change = along(svd, INDICES, [rate if index % 2 else -rate for index, rate in zip(INDICES, RATES, strict=True)])
    assert tsd(svd, change).tolist() == INDICES
    assert change_rates(svd, change)[INDICES].tolist() == pytest.approx(RATES, abs=1e-5)
    others = [index for index in range(64) if index not in INDICES]
    assert change_rates(svd, change)[others].max() < 1e-5


@pytest.mark.parametrize("factor", [-1.0, 1e-4, -3e3])
def test_sign_and_scale_do_not_matter(factor: float) -> None:
    svd, change = decomposed(random_weight()), random_change(1)
    other = Delta.of_matrix(factor * change.dense())
    assert torch.equal(tsd(svd, other), tsd(svd, change))


def test_dense_and_factored_changes_are_one() -> None:
    svd, change = decomposed(random_weight()), random_change(1)
    dense = Delta.of_matrix((change.u * change.s) @ change.v.T)
    assert dense.rank == change.rank == 4
    assert torch.allclose(change_rates(svd, dense), change_rates(svd, change))
    assert torch.allclose(change.dense().double(), dense.dense().double(), atol=1e-6)


def test_fewer_directions_than_asked_for() -> None:
    svd = decomposed(random_weight())
    assert tsd(svd, along(svd, [5, 6], [0.1, 0.2])).tolist() == [6, 5]
    assert tsd(svd, Delta.of_matrix(torch.zeros(SHAPE))).tolist() == []
    assert len(tsd(svd, random_change(1), k=1000)) == 64


def test_amplification_is_that_of_the_whole_product() -> None:
    weight, change = random_weight(), random_change(1)
    svd = decomposed(weight)
    indices = tsd(svd, change)
    left, right = svd.u[:, indices], svd.v[:, indices]
    expected = (left.T @ (weight + change.dense().float()) @ right).norm() / (left.T @ weight @ right).norm()
    assert amplification(svd, indices, change.up, change.down) == pytest.approx(float(expected), rel=1e-4)
    doubled = along(svd, [2, 9], [1.0, 1.0])
    assert amplification(svd, torch.tensor([2, 9]), doubled.up, doubled.down) == pytest.approx(2, abs=1e-4)
    assert amplification(svd, indices[:0], change.up, change.down) is None


def test_position_in_the_spectrum() -> None:
    weight = torch.diag(torch.tensor([1000.0, 100.0, 10.0, 1.0]))
    found = position(decomposed(weight), torch.tensor([2]))
    assert found is not None
    assert (found.index, found.log_sigma) == pytest.approx((2 / 3, 2 / 3))
    assert position(decomposed(weight), torch.tensor([], dtype=torch.int64)) is None


def test_recall_and_accuracy_of_predictions() -> None:
    true = torch.arange(16)
    assert recall(torch.tensor([0, 1, 20, 21, 22, 23, 24, 25]), true) == 0.5
    assert accuracy(torch.tensor([0, 15, 20, 21, 22, 23, 24, 25]), true) == 0.25
    assert recall(true[:8], true) == accuracy(true[:8], true) == 1
    assert recall(true[:7], true) is None
    assert accuracy(true[:8], true[:15]) is None
