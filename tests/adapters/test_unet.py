"""Attaching and detaching on a UNet of Stable Diffusion 1.5's structure, with every method: nothing is left behind."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from dreamtune.adapters import METHODS, attach
from tests.adapters.nets import disturb


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """All blocks and layers of SD 1.5, a twentieth as wide."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 64, 64),
            cross_attention_dim=40,
            attention_head_dim=4,  # pyright: ignore[reportArgumentType]
            norm_num_groups=4,
        )
    return unet.requires_grad_(False).eval()


@pytest.mark.parametrize(
    "method", [it if it in ("lora", "dora") else pytest.param(it, marks=pytest.mark.slow) for it in METHODS]
)
def test_unet_is_bitwise_what_it_was(method: str, unet: UNet2DConditionModel) -> None:
    state = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    modules = [(name, type(module), set(vars(module))) for name, module in unet.named_modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules()]
    x = (torch.ones(1, 4, 8, 8), torch.tensor([500]), torch.ones(1, 5, 40))
    with torch.no_grad():
        before = unet(*x).sample
        attached = attach(unet, METHODS[method].config_class(rank=2))
        assert len(attached.adapters) == 128
        assert torch.equal(unet(*x).sample, before), "ΔW is not 0 at first"
        for _, layer, adapter in attached.layers():
            disturb(adapter, layer.base_weight)
        assert not torch.equal(unet(*x).sample, before)
        attached.merge()
        attached.detach()
        after = unet.state_dict()
        assert list(after) == list(state)
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
        assert torch.equal(unet(*x).sample, before)
    assert [(name, type(module), set(vars(module))) for name, module in unet.named_modules()] == modules
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules()] == hooks
    assert not any(parameter.requires_grad for parameter in unet.parameters())
