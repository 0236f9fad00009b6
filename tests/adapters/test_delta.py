"""Whatever a change is kept as, it is that of its singular value decomposition."""

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import METHODS, Adapter, Delta
from dreamtune.errors import AdapterFileError
from tests.adapters.nets import config_of, disturb
from tests.analysis.truth import SHAPE, decomposed, generator, random_change, random_weight

SHAPES = [(40, 24), (24, 40)]


def one(method: str, shape: tuple[int, int]) -> tuple[Adapter, Tensor]:
    """An adapter as in the middle of a training, and the weight it is for."""
    weight = random_weight(shape=shape)
    adapter = METHODS[method](config_of(method), *shape).eval()
    adapter.initialize(weight, generator(0))
    return disturb(adapter, weight), weight


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_all_of_it_is_that_of_the_adapters_change(method: str, shape: tuple[int, int]) -> None:
    adapter, weight = one(method, shape)
    true, svd = adapter.delta_weight(weight).double(), decomposed(weight)
    change, full = Delta.of_adapter(adapter, weight), torch.linalg.svd(true, full_matrices=False)
    size = float(full.S[0])
    assert change.shape == shape
    assert change.norm == pytest.approx(float(true.norm()), rel=1e-5)
    torch.testing.assert_close(change.s, full.S[: change.rank], rtol=0, atol=1e-6 * size)
    assert float(full.S[change.rank :].sum()) < 1e-5 * size
    for whole in ((change.u * change.s) @ change.v.T, change.up @ change.down, change.dense()):
        torch.testing.assert_close(whole.double(), true, rtol=0, atol=1e-5 * size)
    few = next(i for i in range(1, 5) if full.S[i - 1] > 1.05 * full.S[i])  # where the span is defined
    for found, vectors in zip(change.leading(few), (full.U[:, :few], full.Vh[:few].T), strict=True):
        torch.testing.assert_close(found @ found.T, vectors @ vectors.T, rtol=0, atol=1e-4)
    along = change.along(svd)
    expected = svd.u.double().T @ true @ svd.v.double()
    torch.testing.assert_close(along[0].double() @ along[1].T.double(), expected, rtol=0, atol=1e-5 * size)
    assert along[1].norm(dim=1).tolist() == pytest.approx(
        (true @ svd.v.double()).norm(dim=0).tolist(), 1e-4, 1e-6 * size
    )
    x = torch.randn(3, shape[1], generator=generator(1))
    assert (x @ change.gain).norm(dim=1).tolist() == pytest.approx((x.double() @ true.T).norm(dim=1).tolist(), rel=1e-4)
    other = random_change(2, shape=shape)
    for a, b in ((change, other), (other, change)):
        assert a.inner(b) == pytest.approx(float((true * other.dense().double()).sum()), abs=1e-4 * size)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_what_is_not_finite_is_an_error(method: str) -> None:
    adapter, weight = one(method, SHAPES[0])
    next(adapter.parameters()).fill_(torch.nan)
    with pytest.raises(AdapterFileError, match="NaN or infinity"):
        Delta.of_adapter(adapter, weight)


def test_the_rank_is_without_what_rounding_makes() -> None:
    thin = random_change(0, rank=3)
    dense = Delta.of_matrix(thin.dense())
    assert dense.rank == thin.rank == 3
    assert dense.u.shape == (SHAPE[0], 3)
    assert dense.leading(8)[1].shape == (SHAPE[1], 3)


@pytest.mark.parametrize("size", [4, 200])
def test_no_change_has_no_directions(size: int) -> None:
    zero = Delta.of_matrix(torch.zeros(size, size))
    assert (zero.rank, zero.norm) == (0, 0)
    assert zero.leading(8)[0].shape == (size, 0)
    assert zero.spectrum.values.tolist() == [0]
