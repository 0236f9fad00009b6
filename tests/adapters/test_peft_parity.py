"""The methods that PEFT has too give its outputs, gradients and weights from the same factors."""

from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dreamtune.adapters import attach
from dreamtune.adapters.methods.decompose import row_norms
from tests.adapters.nets import ALPHA, LAYERS, RANK, TARGETS, config_of, frozen_net, inputs

LORA = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
NAMES = {
    "lora": LORA,
    "dora": {**LORA, "magnitude": "lora_magnitude_vector.default.weight"},
    "loha": {
        "up1": "hada_w1_a.default",
        "down1": "hada_w1_b.default",
        "up2": "hada_w2_a.default",
        "down2": "hada_w2_b.default",
    },
    "lokr": {
        "w1": "lokr_w1.default",
        "up1": "lokr_w1_a.default",
        "down1": "lokr_w1_b.default",
        "w2": "lokr_w2.default",
        "up2": "lokr_w2_a.default",
        "down2": "lokr_w2_b.default",
    },
}
"""Our name of a tensor -> PEFT's."""
SAME: dict[str, Any] = {"target_modules": ["first", "second"], "r": RANK}


@pytest.mark.parametrize(
    ("method", "options", "theirs"),
    [
        ("lora", {}, LoraConfig(lora_alpha=ALPHA, **SAME)),  # pyright: ignore[reportArgumentType]
        ("lora", {"rslora": True}, LoraConfig(lora_alpha=ALPHA, use_rslora=True, **SAME)),  # pyright: ignore[reportArgumentType]
        ("dora", {}, LoraConfig(lora_alpha=ALPHA, use_dora=True, **SAME)),  # pyright: ignore[reportArgumentType]
        ("loha", {}, LoHaConfig(alpha=ALPHA, **SAME)),  # pyright: ignore[reportArgumentType]
        ("lokr", {}, LoKrConfig(alpha=ALPHA, **SAME)),  # pyright: ignore[reportArgumentType]
        ("lokr", {"factor": 2}, LoKrConfig(alpha=ALPHA, decompose_factor=2, **SAME)),  # pyright: ignore[reportArgumentType]
        ("lokr", {"decompose_both": True, "rank": 1}, LoKrConfig(alpha=ALPHA, decompose_both=True, **{**SAME, "r": 1})),  # pyright: ignore[reportArgumentType]
        ("lokr", {"rank": 4}, LoKrConfig(alpha=ALPHA, **{**SAME, "r": 4})),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: str(value) if isinstance(value, str | dict) else "",
)
def test_parity(method: str, options: dict[str, Any], theirs: Any) -> None:
    net, x = frozen_net(), inputs()
    attached = attach(net, config_of(method, **options), TARGETS).double()
    other = inject_adapter_in_model(theirs, frozen_net()).double()
    own: list[Tensor] = []
    foreign: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for path, layer, adapter in attached.layers():
        # What our magnitude is measured from is ‖W‖ rounded to fp32 (decompose.py); PEFT's from ‖W‖ itself.
        norms = row_norms(layer.weight)
        for name, parameter in adapter.named_parameters():
            module, _, leaf = f"{path}.{NAMES[method][name]}".rpartition(".")
            holder = other.get_submodule(module)
            foreign.append(holder[leaf] if isinstance(holder, nn.ParameterDict) else holder.get_parameter(leaf))
            own.append(parameter)
            nn.init.normal_(parameter, generator=generator)
            assert foreign[-1].shape == parameter.shape
            rounding = norms - norms.float() if name == "magnitude" else 0
            foreign[-1].data.copy_(parameter + rounding)
    trained = {id(parameter) for parameter in other.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in foreign}
    y, z = net(x), other(x)
    torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    pairs = zip(torch.autograd.grad(y.square().sum(), own), torch.autograd.grad(z.square().sum(), foreign), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    if method != "dora":  # PEFT's get_delta_weight leaves the magnitude out
        for path in LAYERS:
            delta = other.get_submodule(path).get_delta_weight("default")  # pyright: ignore[reportCallIssue]
            torch.testing.assert_close(attached.adapters[path].delta_weight(net.first.weight), delta)
