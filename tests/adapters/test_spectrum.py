"""Singular values without the product of the factors."""

import pytest
import torch

from dreamtune.adapters.spectrum import Spectrum
from dreamtune.errors import AdapterFileError


def test_spectrum_from_factors_is_that_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    for out, rank, width in ((9, 3, 6), (4, 7, 5)):
        up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, width, generator=generator)
        dense, spectrum = Spectrum.of_matrix(up.double() @ down.double()), Spectrum.of_factors(up, down)
        count = min(len(dense.values), len(spectrum.values))
        torch.testing.assert_close(spectrum.values[:count], dense.values[:count], rtol=1e-9, atol=1e-9)
        assert dense.values[count:].abs().sum() < 1e-9


def test_stable_rank_and_energy() -> None:
    spectrum = Spectrum.of_matrix(torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0])))
    assert spectrum.norm == pytest.approx(6**0.5)
    assert spectrum.stable_rank == pytest.approx(1.5)
    assert spectrum.energy.tolist() == pytest.approx([4 / 6, 1 / 6, 1 / 6, 0])
    assert [spectrum.rank_for(share) for share in (0.5, 0.8, 0.9, 1.0)] == [1, 2, 3, 3]
    nothing = Spectrum.of_factors(torch.zeros(3, 2), torch.ones(2, 4))
    assert (nothing.norm, nothing.stable_rank, nothing.rank_for()) == (0, 0, 0)
    assert nothing.energy.tolist() == [0, 0]


@pytest.mark.parametrize("size", [1e80, 1e160])
def test_finite_factors_of_a_change_that_is_not(size: float) -> None:
    """Each number is finite; its products with others, or the squares of those, are not."""
    up = torch.full((3, 2), size, dtype=torch.float64)
    for make in (lambda: Spectrum.of_factors(up, up.T), lambda: Spectrum.of_matrix(up @ up.T)):
        with pytest.raises(AdapterFileError, match="its change overflows"):
            make()
    assert Spectrum.of_factors(up, up.T / size / size).norm == pytest.approx(6)
