import pytest
import torch

from dreamtune.adapters.methods.lokr import LoKr, LoKrConfig
from tests.adapters.nets import config_of, disturb

SHAPES = [(12, 40), (40, 12), (36, 36)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"rank": 1, "decompose_both": True, "factor": 4}])
@torch.no_grad()
def test_decomposition_is_that_of_the_change(shape: tuple[int, int], options: dict[str, int]) -> None:
    """With W₂ whole, in factors of a small rank, and W₁ too."""
    config = config_of("lokr", **{"rank": 12, **options})
    assert isinstance(config, LoKrConfig)
    adapter = LoKr(config, *shape).double().eval()
    weight = torch.zeros(shape, dtype=torch.float64)
    adapter.initialize(weight, torch.Generator().manual_seed(0))
    disturb(adapter, weight)
    change, svd = adapter.delta_weight(weight), adapter.decomposition(weight)
    assert svd is not None
    count = len(svd.s)
    true = torch.linalg.svdvals(change)
    torch.testing.assert_close(svd.s, true[:count])
    assert float(true[count:].sum()) < 1e-10
    torch.testing.assert_close((svd.u * svd.s) @ svd.v.T, change)
    for vectors in (svd.u, svd.v):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(count, dtype=torch.float64))
    assert (count < len(true)) == ("rank" in options)


def test_there_is_none_through_a_weight_decomposition() -> None:
    adapter = LoKr(LoKrConfig(rank=2, weight_decompose=True), 12, 40)
    assert adapter.decomposition(torch.zeros(12, 40)) is None
