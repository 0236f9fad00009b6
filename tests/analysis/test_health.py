import pytest
import torch

from dreamtune.adapters import Delta
from dreamtune.adapters.svd import Svd
from dreamtune.analysis.health import health, intruder_dimensions
from tests.analysis.truth import along, decomposed, generator, random_change


def falling(shape: tuple[int, int] = (96, 64)) -> torch.Tensor:
    """A weight whose singular values fall by a tenth from one to the next."""
    left, right = (torch.linalg.qr(torch.randn(n, 64, generator=generator(n))).Q for n in shape)
    return (left * 0.9 ** torch.arange(64.0)) @ right.T


def test_figures_of_a_known_change() -> None:
    weight = falling()
    svd = decomposed(weight)
    left, right = torch.eye(96)[:, :3], torch.eye(64)[:3]
    found = health(weight, svd, Delta.of_factors(left * torch.tensor([4.0, 2.0, 1.0]), right))
    assert (found.rank, found.energy, found.trim) == (3, 2, 2)  # energies 16, 4 and 1 of 21
    assert found.stable_rank == pytest.approx(21 / 16)
    assert found.relative == pytest.approx(21**0.5 / float(weight.norm()))
    assert not found.near_zero


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_intruders_are_those_of_the_full_decomposition(scale: float) -> None:
    weight, change = falling(), random_change(5, rank=3)
    svd = decomposed(weight)
    changed = Delta.of_factors(change.u * change.s / change.s[0] * scale, change.v.T)
    full = torch.linalg.svd(weight.double() + (changed.u * changed.s) @ changed.v.T)
    expected = int(((svd.u.double().T @ full.U[:, :10]).abs().amax(0) < 0.5).sum())
    assert intruder_dimensions(weight, svd, changed) == expected
    if scale == 3.0:
        assert expected == 3


def test_an_intruder_far_from_the_weights_first_directions_is_found() -> None:
    values = torch.linspace(2, 1, 512)
    weight, svd = values.diag(), Svd(torch.eye(512), values, torch.eye(512))
    spread = torch.zeros(512)
    spread[300:420] = 120**-0.5
    assert intruder_dimensions(weight, svd, Delta.of_matrix(10 * torch.outer(spread, spread))) == 1


def test_a_change_along_the_weights_own_directions_intrudes_nowhere() -> None:
    weight = falling()
    svd = decomposed(weight)
    assert intruder_dimensions(weight, svd, along(svd, [0, 5, 30], [5.0, 2.0, 3.0])) == 0
    assert intruder_dimensions(weight[:6, :6], decomposed(weight[:6, :6]), random_change(0, 2, (6, 6))) is None
