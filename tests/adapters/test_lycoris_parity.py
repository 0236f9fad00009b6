"""LoHa and LoKr give LyCORIS's outputs from the same factors, and LoKr splits sizes as it does."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from dreamtune.adapters import attach
from dreamtune.adapters.methods.lokr import split
from tests.adapters.nets import ALPHA, RANK, config_of, disturb

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lycoris.functional import factorization
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

NAMES = {
    "up1": "w1_a",
    "down1": "w1_b",
    "up2": "w2_a",
    "down2": "w2_b",
    "w1": "w1",
    "w2": "w2",
}


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [("loha", {}), ("lokr", {}), ("lokr", {"factor": 2}), ("lokr", {"decompose_both": True}), ("lokr", {"factor": 3})],
    ids=str,
)
def test_outputs(method: str, options: dict[str, Any], decompose: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(60, 48).requires_grad_(False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(48, 60, generator=generator))
    x = torch.randn(3, 60, generator=generator)
    other = nn.Linear(60, 48)
    other.load_state_dict(layer.state_dict())
    module: Any = LohaModule if method == "loha" else LokrModule
    theirs = module("layer", other, lora_dim=RANK, alpha=ALPHA, weight_decompose=decompose, **options)
    theirs.apply_to()

    config = config_of(method, weight_decompose=decompose, **options)
    attached = attach(nn.ModuleDict({"layer": layer}), config, "layer")
    adapter = disturb(attached.adapters["layer"], layer.weight)
    prefix, found = ("hada" if method == "loha" else "lokr"), 0
    for name, parameter in adapter.named_parameters():
        their_name = "dora_scale" if name == "magnitude" else f"{prefix}_{NAMES[name]}"
        theirs.get_parameter(their_name).data.copy_(parameter.view(theirs.get_parameter(their_name).shape))
        found += 1
    assert found == len(list(theirs.parameters()))
    torch.testing.assert_close(layer(x), other(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias), atol=0.1)


@pytest.mark.parametrize("factor", [-1, 1, 2, 3, 4, 5, 8, 12, 16, 64])
def test_sizes_are_split_as_lycoris_splits_them(factor: int) -> None:
    for size in [*range(1, 400), 640, 768, 960, 1024, 1280, 2048]:
        assert split(size, factor) == factorization(size, factor)
