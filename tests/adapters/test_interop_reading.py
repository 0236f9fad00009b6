"""Files of PEFT, diffusers, kohya and LyCORIS, written by those tools where they can, act here as they do there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lycoris.modules import get_module, make_module
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.interop import read_adapter
from dreamtune.errors import AdapterFileError
from tests.adapters.nets import frozen_net, inputs

Tensors = dict[str, Tensor]
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def randomised(module: nn.Module) -> nn.Module:
    """The same with random values in the adapter's parameters; magnitudes stay positive."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in module.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_")):
            value = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(value.abs() + 0.5 if "magnitude" in name else 0.5 * value)
    return module


def written(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


PEFT_CONFIGS: dict[str, Callable[..., Any]] = {
    "lora": lambda **o: LoraConfig(r=2, lora_alpha=5, **o),
    "rslora": lambda **o: LoraConfig(r=2, lora_alpha=5, use_rslora=True, **o),
    "ranks": lambda **o: LoraConfig(
        r=2, lora_alpha=5, rank_pattern={"second": 3}, alpha_pattern={"^block.second": 4}, **o
    ),
    "dora": lambda **o: LoraConfig(r=2, lora_alpha=5, use_dora=True, **o),
    "loha": lambda **o: LoHaConfig(r=2, alpha=5, **o),
    "lokr": lambda **o: LoKrConfig(r=1, alpha=3, **o),
    "lokr whole": lambda **o: LoKrConfig(r=4, alpha=3, decompose_factor=2, **o),
    "lokr both": lambda **o: LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=2, **o),
}


@pytest.mark.parametrize("kind", PEFT_CONFIGS)
def test_folder_of_peft(kind: str, tmp_path: Path) -> None:
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    model = get_peft_model(net, PEFT_CONFIGS[kind](target_modules=["first", "second"]))  # pyright: ignore[reportArgumentType]
    randomised(model)
    model.save_pretrained(str(tmp_path))
    expected = model.eval()(x)
    imported = read_adapter(tmp_path)
    assert (imported.tool, imported.remarks) == (
        "PEFT" if kind in ("lora", "rslora", "ranks", "dora") else "LyCORIS",
        (),
    )
    assert imported.file.base == ""
    own = frozen_net(torch.float32)
    imported.file.attach(own)
    torch.testing.assert_close(own(x), expected)
    assert not torch.allclose(expected, frozen_net(torch.float32)(x), atol=1e-2)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_file_of_diffusers(kind: str, prefix: str, tmp_path: Path) -> None:
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    config = PEFT_CONFIGS[kind](target_modules=["first", "second"])
    randomised(inject_adapter_in_model(config, net))
    state = {f"{prefix}{name}": value for name, value in get_peft_model_state_dict(net).items()}
    expected = net.eval()(x)
    told = {f"unet.{key}": list(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
    path = written(tmp_path / "a.safetensors", state, {"lora_adapter_metadata": json.dumps(told)})
    own = frozen_net(torch.float32)
    imported = read_adapter(path)
    with imported.file.attach(own):
        torch.testing.assert_close(own(x), expected)
    assert imported.remarks == ()
    guess = read_adapter(written(tmp_path / "b.safetensors", state))
    assert "the alpha of 2 layers is not in the file: it was taken to be the rank" in guess.remarks[0]
    assert guess.file.config.scale == 1


def delta(file: AdapterFile, weight: Tensor | None = None) -> Tensor:
    (adapter,) = file.adapters().values()
    return adapter.delta_weight(torch.zeros(adapter.shape) if weight is None else weight).detach()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


KOHYA_LAYERS: dict[str, Callable[[], Tensors]] = {
    "lora": lambda: {"lora_up.weight": rand(12, 2), "lora_down.weight": rand(2, 8), "alpha": torch.tensor(3.0)},
    "lora without alpha": lambda: {"lora_up.weight": rand(12, 2), "lora_down.weight": rand(2, 8)},
    "dora": lambda: {**KOHYA_LAYERS["lora"](), "dora_scale": rand(12, 1).abs()},
    "loha": lambda: {
        "hada_w1_a": rand(12, 2),
        "hada_w1_b": rand(2, 8),
        "hada_w2_a": rand(12, 2, seed=1),
        "hada_w2_b": rand(2, 8, seed=1),
        "alpha": torch.tensor(3.0),
    },
    "decomposed loha": lambda: {**KOHYA_LAYERS["loha"](), "dora_scale": rand(12, 1).abs()},
    "lokr": lambda: {"lokr_w1": rand(3, 2), "lokr_w2_a": rand(4, 1), "lokr_w2_b": rand(1, 4), "alpha": torch.tensor(3)},
    "whole lokr": lambda: {"lokr_w1": rand(2, 2), "lokr_w2": rand(6, 4), "alpha": torch.tensor(3.0)},
    "lokr of small factors": lambda: {
        "lokr_w1_a": rand(4, 1),
        "lokr_w1_b": rand(1, 4),
        "lokr_w2_a": rand(3, 1),
        "lokr_w2_b": rand(1, 2),
        "alpha": torch.tensor(2.0),
    },
    "decomposed lokr": lambda: {**KOHYA_LAYERS["lokr"](), "dora_scale": rand(12, 1).abs()},
}


def lycoris_change(tensors: Tensors, weight: Tensor) -> Tensor:
    """W' − W as LyCORIS' forward pass has it; its merging applies alpha/rank twice to LoHa and LoKr."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    state = {f"x.{name}": tensor for name, tensor in {"alpha": default_alpha(tensors), **tensors}.items()}
    kind, parameters = get_module(state, "x")
    module: Any = make_module(cast(Any, kind), parameters, "x", layer)
    module.apply_to()
    return (layer(torch.eye(weight.shape[1])).T - weight).detach()


def default_alpha(tensors: Tensors) -> Tensor:
    return torch.tensor(float(tensors["lora_down.weight"].shape[0] if "lora_down.weight" in tensors else 1))


@pytest.mark.parametrize("kind", KOHYA_LAYERS)
def test_layer_of_kohya_and_lycoris(kind: str, tmp_path: Path) -> None:
    tensors, weight = KOHYA_LAYERS[kind](), rand(12, 8, seed=9)
    path = written(tmp_path / "a.safetensors", {f"{KOHYA}.{name}": tensor for name, tensor in tensors.items()})
    if kind == "lokr of small factors":  # no factor of 12 splits it so; LyCORIS would not write it either
        with pytest.raises(AdapterFileError, match="do not fit together as lokr"):
            read_adapter(path)
        return
    imported = read_adapter(path)
    assert list(imported.file.layers) == [PATH]
    assert imported.remarks == ()
    torch.testing.assert_close(delta(imported.file, weight), lycoris_change(tensors, weight), rtol=1e-4, atol=1e-5)
