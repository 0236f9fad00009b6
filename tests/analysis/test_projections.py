import pytest
import torch

from dreamtune.adapters import Delta
from dreamtune.adapters.methods.lora_dash import core_projections, rates_of_change
from dreamtune.analysis.projections import Projections, Shares
from tests.analysis.truth import SHAPE, along, decomposed, random_change, random_weight


def test_projections_are_the_change_in_the_basis_of_the_weight() -> None:
    svd, change = decomposed(random_weight()), random_change(1)
    found = Projections.of(svd, change)
    expected = svd.u.double().T @ ((change.u * change.s) @ change.v.T) @ svd.v.double()
    assert torch.allclose(found.left @ found.right.T, expected)
    assert torch.allclose(found.core, expected.diagonal())


def test_rates_are_those_that_lora_dash_trains_by() -> None:
    svd, change = decomposed(random_weight()), random_change(1)
    found = Projections.of(svd, change)
    assert torch.allclose(found.core, core_projections(svd, change.up, change.down))
    assert torch.allclose(found.rates, rates_of_change(svd, change.up, change.down))


def test_shares_of_a_random_change_are_those_by_chance() -> None:
    """Its directions are not the weight's: hardly anything lies on the core, and all of it in the weight's space."""
    weight = random_weight(shape=(64, 64))
    svd, change = decomposed(weight), random_change(1, rank=40, shape=(64, 64))
    found = Shares.of(Projections.of(svd, change), change)
    assert found is not None
    assert found.core_by_chance == 1 / 64
    assert float(found.core.sum()) == pytest.approx(1 / 64, rel=0.5)
    assert found.whole == pytest.approx(1)
    assert found.grid.shape == (32, 32)
    assert float(found.grid.sum()) * 4 == pytest.approx(1), "means over cells of 2 by 2"


def test_strongest_global_directions_are_found() -> None:
    svd = decomposed(random_weight())
    left, right = svd.u[:, [5, 60, 7]], svd.v[:, [9, 2, 7]]
    change = Delta.of_factors(left * torch.tensor([3.0, 2.0, 1.0]), right.T)
    found = Shares.of(Projections.of(svd, change), change, count=3)
    assert found is not None
    assert [(i, j) for i, j, _ in found.strongest] == [(5, 9), (60, 2), (7, 7)]
    assert [share for *_, share in found.strongest] == pytest.approx([9 / 14, 4 / 14, 1 / 14], abs=1e-5)
    assert found.falling[:3].tolist() == pytest.approx([9 / 14, 4 / 14, 1 / 14], abs=1e-5)
    assert float(found.core.sum()) == pytest.approx(1 / 14, abs=1e-5)


def test_changes_on_the_core_outside_the_weights_space_and_none() -> None:
    weight = random_weight()
    svd = decomposed(weight)
    own = along(svd, [3], [1.0])
    outside = torch.linalg.svd(weight).U[:, 64:65]  # orthogonal to all left singular vectors of the weight
    shares = [Shares.of(Projections.of(svd, c), c) for c in (own, Delta.of_factors(outside, svd.v[:, :1].T))]
    assert [float(one.core.sum()) for one in shares if one] == pytest.approx([1, 0], abs=1e-5)
    assert [one.whole for one in shares if one] == pytest.approx([1, 0], abs=1e-5)
    zero = Delta.of_matrix(torch.zeros(SHAPE))
    assert Shares.of(Projections.of(svd, zero), zero) is None


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_shares_of_a_change_without_small_factors_do_not_depend_on_its_size(scale: float) -> None:
    """Also where squares are beyond fp32's range."""
    svd, matrix = decomposed(random_weight()), random_change(1).dense()
    one, other = (Delta.of_matrix(factor * matrix) for factor in (1.0, scale))
    expected, found = (Shares.of(Projections.of(svd, change), change) for change in (one, other))
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found.falling, expected.falling)
    torch.testing.assert_close(found.core, expected.core)
    assert found.whole == pytest.approx(expected.whole)
