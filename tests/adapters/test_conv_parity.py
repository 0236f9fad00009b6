"""On convolutions the methods give PEFT's and LyCORIS' outputs and gradients from the same factors."""

import warnings
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dreamtune.adapters import attach
from dreamtune.adapters.layer import pristine_weight
from dreamtune.adapters.methods.decompose import row_norms
from tests.adapters.nets import ALPHA, RANK, config_of, disturb
from tests.adapters.test_lycoris_parity import NAMES as LYCORIS
from tests.adapters.test_peft_parity import NAMES as PEFT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

SAME: dict[str, Any] = {"target_modules": ["wide", "narrow"], "r": RANK}


class Net(nn.Module):
    """A convolution that halves the picture, and one with a kernel of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(6, 8, (3, 5), stride=2, padding=(1, 2))  # PEFT's LoRA has no dilation
        self.narrow = nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x).tanh())


def frozen() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().double().requires_grad_(False)


def picture() -> Tensor:
    return torch.randn(2, 6, 9, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("method", "options", "theirs"),
    [
        ("lora", {}, LoraConfig(lora_alpha=ALPHA, **SAME)),  # pyright: ignore[reportArgumentType]
        ("dora", {}, LoraConfig(lora_alpha=ALPHA, use_dora=True, **SAME)),  # pyright: ignore[reportArgumentType]
        ("loha", {}, LoHaConfig(alpha=ALPHA, **SAME)),  # pyright: ignore[reportArgumentType]
        ("lokr", {"rank": 1}, LoKrConfig(alpha=ALPHA, **{**SAME, "r": 1})),  # pyright: ignore[reportArgumentType]
        ("lokr", {"rank": 1, "factor": 2}, LoKrConfig(alpha=ALPHA, decompose_factor=2, **{**SAME, "r": 1})),  # pyright: ignore[reportArgumentType]
        ("lokr", {"rank": 23}, LoKrConfig(alpha=ALPHA, r=23, target_modules=["wide"])),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: str(value) if isinstance(value, str | dict) else "",
)
def test_parity_with_peft(method: str, options: dict[str, Any], theirs: Any) -> None:
    net, x = frozen(), picture()
    attached = attach(net, config_of(method, **options), "|".join(theirs.target_modules)).double()
    other = inject_adapter_in_model(theirs, frozen()).double()
    own: list[Tensor] = []
    foreign: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for path, layer, adapter in attached.layers():
        norms = row_norms(pristine_weight(layer))  # see test_peft_parity
        for name, parameter in adapter.named_parameters():
            module, _, leaf = f"{path}.{PEFT[method][name]}".rpartition(".")
            holder = other.get_submodule(module)
            foreign.append(holder[leaf] if isinstance(holder, nn.ParameterDict) else holder.get_parameter(leaf))
            own.append(parameter)
            nn.init.normal_(parameter, generator=generator)
            rounding = norms - norms.float() if name == "magnitude" else 0
            foreign[-1].data.copy_((parameter + rounding).view(foreign[-1].shape))
    trained = {id(parameter) for parameter in other.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in foreign}
    y, z = net(x), other(x)
    assert not torch.allclose(y, frozen()(x))
    torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    pairs = zip(torch.autograd.grad(y.square().sum(), own), torch.autograd.grad(z.square().sum(), foreign), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one.view(two.shape), two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {}),
        ("loha", {}),
        ("lokr", {"rank": 1}),
        ("lokr", {"rank": 1, "factor": 2}),
        ("lokr", {"rank": 1, "decompose_both": True}),
        ("lokr", {"rank": "whole", "factor": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_parity_with_lycoris(method: str, options: dict[str, Any], decompose: bool, name: str) -> None:
    if options.get("rank") == "whole":
        options = {**options, "rank": {"wide": 23, "narrow": 8}[name]}
    net = frozen().float()
    layer, other = net.get_submodule(name), frozen().float().get_submodule(name)
    x = picture().float() if name == "wide" else net.wide(picture().float())
    module: Any = {"lora": LoConModule, "loha": LohaModule, "lokr": LokrModule}[method]
    own = {"lora_dim": RANK, **options}
    own["lora_dim"] = own.pop("rank", RANK)
    theirs = module("layer", other, alpha=ALPHA, weight_decompose=decompose, **own)
    theirs.apply_to()

    if method == "lora":
        config = config_of("dora" if decompose else "lora", **options)
        names = {"down": "lora_down.weight", "up": "lora_up.weight"}
    else:
        config = config_of(method, weight_decompose=decompose, **options)
        names = {ours: f"{'hada' if method == 'loha' else 'lokr'}_{it}" for ours, it in LYCORIS.items()}
    attached = attach(net, config, name)
    adapter = disturb(attached.adapters[name], pristine_weight(layer))
    found = 0
    for ours, parameter in adapter.named_parameters():
        their = theirs.get_parameter(names.get(ours, "dora_scale"))
        factor = 1.0
        if method == "lokr" and ours == "w2" and "w1" in dict(adapter.named_parameters()):
            factor = config.scale  # theirs is 1 with two whole matrices
        their.data.copy_(factor * parameter.view(their.shape))
        found += 1
    assert found == len(list(theirs.parameters()))
    torch.testing.assert_close(layer(x), other(x), rtol=1e-4, atol=1e-4)
    attached.strength = 0
    assert not torch.allclose(layer(x), other(x), atol=0.05)
