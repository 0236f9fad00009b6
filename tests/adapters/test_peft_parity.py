"""The methods that PEFT has too give its outputs and gradients from the same factors."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dreamtune.adapters import attach
from dreamtune.adapters.methods.lora import LoRAConfig
from tests.adapters.nets import ALPHA, RANK, frozen_net, inputs

LAYERS = ("first", "block.second")


@pytest.mark.parametrize("rslora", [False, True])
def test_lora(rslora: bool) -> None:
    ours, theirs, x = frozen_net(), frozen_net(), inputs()
    attached = attach(ours, LoRAConfig(rank=RANK, alpha=ALPHA, rslora=rslora), "first|second").double()
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, use_rslora=rslora, target_modules=["first", "second"])  # pyright: ignore[reportArgumentType]
    theirs = inject_adapter_in_model(config, theirs).double()
    own: list[Tensor] = []
    other: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for path in LAYERS:
        for name, their_name in (("down", "lora_A"), ("up", "lora_B")):
            own.append(attached.adapters[path].get_parameter(name))
            other.append(theirs.get_submodule(f"{path}.{their_name}.default").get_parameter("weight"))
            nn.init.normal_(own[-1], generator=generator)
            other[-1].data.copy_(own[-1])
    y, z = ours(x), theirs(x)
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
    pairs = zip(torch.autograd.grad(y.sum(), own), torch.autograd.grad(z.sum(), other), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    for path in LAYERS:
        delta = theirs.get_submodule(path).get_delta_weight("default")  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(attached.adapters[path].delta_weight(ours.first.weight), delta)
