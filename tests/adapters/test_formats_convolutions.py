"""Convolutions out of LyCORIS', PEFT's and kohya's files change what they change there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters.formats import read_adapter
from dreamtune.errors import AdapterFileError
from tests.adapters.test_formats_reading import randomised
from tests.models.test_published import full_size

Tensors = dict[str, Tensor]
RESNET, NAME = "down_blocks.0.resnets.0.conv1", "lora_unet_down_blocks_0_resnets_0_conv1"
MODULES: dict[str, Any] = {"locon": LoConModule, "loha": LohaModule, "lokr": LokrModule, "full": FullModule}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("locon", {}),
    "tucker": ("locon", {"use_tucker": True}),
    "dora": ("locon", {"weight_decompose": True}),
    "tucker dora": ("locon", {"weight_decompose": True, "use_tucker": True}),
    "loha": ("loha", {}),
    "tucker loha": ("loha", {"use_tucker": True}),
    "decomposed loha": ("loha", {"weight_decompose": True}),
    "lokr": ("lokr", {"lora_dim": 1}),
    "whole lokr": ("lokr", {"lora_dim": 1000}),
    "tucker lokr": ("lokr", {"lora_dim": 2, "use_tucker": True, "factor": 2}),
    "lokr of factors": ("lokr", {"lora_dim": 1, "decompose_both": True, "factor": 4}),
    "decomposed lokr": ("lokr", {"lora_dim": 1, "weight_decompose": True}),
    "full": ("full", {}),
}


def conv(rows: int = 12, columns: int = 8, kernel: int = 3) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(kernel)
        return nn.Conv2d(columns, rows, kernel, padding=kernel // 2, bias=False).requires_grad_(False)


@torch.no_grad()
def lycoris(kind: str, layer: nn.Module, name: str = NAME) -> Tensors:
    """What a module of LyCORIS' writes that then acts in `layer`, with random factors."""
    algorithm, options = KINDS[kind]
    module = MODULES[algorithm](name, layer, **{"multiplier": 1.0, "lora_dim": 3, "alpha": 2.0, **options})
    generator = torch.Generator().manual_seed(7)
    for key, parameter in module.named_parameters():
        if not key.startswith("org_module"):
            values = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values.abs() + 0.5 if "dora_scale" in key else values)
    module.apply_to()  # only then does what it writes of `full` mean the change
    state = module.custom_state_dict() if hasattr(module, "custom_state_dict") else None
    state = state or {key: t for key, t in module.state_dict().items() if not key.startswith("org_module")}
    return {f"{name}.{key}": tensor.detach().clone().contiguous() for key, tensor in state.items()}


def read(folder: Path, tensors: Tensors) -> Any:
    save_file(tensors, folder / "a.safetensors")
    return read_adapter(folder / "a.safetensors").file


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_of_lycoris(kind: str, tmp_path: Path) -> None:
    layer, x = conv(), torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    tensors = lycoris(kind, layer)
    file = read(tmp_path, tensors)
    assert (file.layers[RESNET].shape, file.layers[RESNET].kernel) == ((12, 72), (3, 3))
    model = nn.ModuleDict({"down_blocks": nn.ModuleList([resnet(conv())])})
    base = model.get_submodule(RESNET)(x)
    expected = layer(x)
    with file.attach(model):
        found = model.get_submodule(RESNET)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, base, atol=1e-2)


def resnet(layer: nn.Module) -> nn.Module:
    return nn.ModuleDict({"resnets": nn.ModuleList([nn.ModuleDict({"conv1": layer})])})


def test_magnitudes_of_input_channels_are_left_out(tmp_path: Path) -> None:
    """Older LyCORIS has one number for all of a channel's kernel, which no method here has."""
    tensors = lycoris("dora", conv())
    tensors[f"{NAME}.dora_scale"] = torch.ones(1, 8, 1, 1)
    with pytest.raises(AdapterFileError, match="changes no supported layer, only convolutions with mag"):
        read(tmp_path, tensors)
    name = "lora_unet_conv_in"
    other = {tensor.replace(NAME, name): value.clone() for tensor, value in lycoris("dora", conv()).items()}
    imported = read_adapter(saved(tmp_path / "b.safetensors", tensors | other))
    assert list(imported.file.layers) == ["conv_in"]
    assert imported.remarks[0].startswith("1 convolutions with magnitudes per input channel are left out, ")


def saved(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path)
    return path


PEFT: dict[str, Any] = {
    "lora": lambda **o: LoraConfig(r=2, lora_alpha=5, **o),
    "dora": lambda **o: LoraConfig(r=2, lora_alpha=5, use_dora=True, **o),
    "loha": lambda **o: LoHaConfig(r=2, alpha=5, **o),
    "loha effective": lambda **o: LoHaConfig(r=2, alpha=5, use_effective_conv2d=True, **o),
    "lokr": lambda **o: LoKrConfig(r=1, alpha=5, **o),
    "lokr effective": lambda **o: LoKrConfig(r=1, alpha=5, use_effective_conv2d=True, **o),
}


@pytest.mark.parametrize("kind", PEFT)
def test_convolutions_of_peft(kind: str, tmp_path: Path) -> None:
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    model: Any = get_peft_model(model_of_two(), PEFT[kind](target_modules=["conv_in", "conv_shortcut"]))
    randomised(model)
    model.save_pretrained(str(tmp_path))
    file, own = read_adapter(tmp_path).file, model_of_two()
    assert {path: record.kernel for path, record in file.layers.items()} == {
        "conv_in": (3, 3),
        "mid_block.resnets.0.conv_shortcut": None,
    }
    base = own(x)
    with file.attach(own):
        torch.testing.assert_close(own(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(base, model(x), atol=1e-2)


class Convolving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = conv()
        shortcut = nn.ModuleDict({"conv_shortcut": conv(6, 12, 1)})
        self.mid_block = nn.ModuleDict({"resnets": nn.ModuleList([shortcut])})

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("mid_block.resnets.0.conv_shortcut")(self.conv_in(x).tanh())


def model_of_two() -> nn.Module:
    return Convolving()


def test_sizes_that_no_layer_has(tmp_path: Path) -> None:
    attention = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    down, up = torch.ones(2, 8, 3, 3), torch.ones(12, 2, 1, 1)
    with pytest.raises(
        AdapterFileError, match=f"{attention} has a kernel of 3x3, which that layer has in no known base"
    ):
        read(tmp_path, {f"{attention}.lora_down.weight": down, f"{attention}.lora_up.weight": up})
    with pytest.raises(AdapterFileError, match="up is 12x2x3x3, but needs a kernel of 1x1"):
        read(tmp_path, {f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": torch.ones(12, 2, 3, 3)})
    with pytest.raises(AdapterFileError, match="down has 3 dimensions, not 2 or 4"):
        read(tmp_path, {f"{NAME}.lora_down.weight": torch.ones(2, 8, 3), f"{NAME}.lora_up.weight": up})
    mid = {f"{NAME}.lora_mid.weight": torch.ones(3, 3, 3, 3)}
    with pytest.raises(AdapterFileError, match="mid of 3x3x3x3 does not fit the others"):
        read(tmp_path, mid | {f"{NAME}.lora_down.weight": down[..., :1, :1].clone(), f"{NAME}.lora_up.weight": up})


def test_settings_of_diffusers_for_a_convolution(tmp_path: Path) -> None:
    told = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"resnets.0.conv1": 6}}
    tensors = {
        f"unet.{RESNET}.lora_A.weight": torch.ones(2, 8, 3, 3),
        f"unet.{RESNET}.lora_B.weight": torch.ones(12, 2, 1, 1),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    assert read_adapter(tmp_path / "a.safetensors").file.config.scale == 3


SDXL_OR_NOT = [("sd1", 264, 350), ("sd2", 264 + 11 * 6, 350 + 11 * 6)]


@pytest.mark.parametrize(("family", "lora", "locon"), SDXL_OR_NOT)
@pytest.mark.parametrize("convolutions", [False, True])
def test_whole_files_of_sd_scripts_lose_no_layer(
    family: str, lora: int, locon: int, convolutions: bool, tmp_path: Path
) -> None:
    """Its LoRA is on all of the transformers and of CLIP; LoCon on the resnets and samplers too."""
    parts = full_size(family)
    tensors: Tensors = {}
    blocks = ("ResnetBlock2D", "Downsample2D", "Upsample2D") if convolutions else ()
    names = [("lora_unet", parts["unet"], ("Transformer2DModel", *blocks))]
    names += [("lora_te", parts["text_encoder"], ("CLIPAttention", "CLIPMLP"))]
    for prefix, part, kinds in names:
        for path, inside in part.named_modules():
            if type(inside).__name__ in kinds:
                for inner, layer in inside.named_modules():
                    if isinstance(layer, nn.Linear | nn.Conv2d):
                        outer = "" if path.startswith("text_model") or prefix == "lora_unet" else "text_model."
                        name = f"{prefix}_{outer}{path}.{inner}".replace(".", "_")
                        ones = [1] * (layer.weight.ndim - 2)
                        tensors[f"{name}.lora_down.weight"] = torch.zeros(
                            1, *layer.weight.shape[1:], dtype=torch.float16
                        )
                        tensors[f"{name}.lora_up.weight"] = torch.zeros(
                            len(layer.weight), 1, *ones, dtype=torch.float16
                        )
                        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    assert len(tensors) == 3 * (locon if convolutions else lora)
    imported = read_adapter(saved(tmp_path / "a.safetensors", tensors))
    assert (len(imported.file.layers), imported.remarks) == (locon if convolutions else lora, ())
    models = {name: part for name, part in parts.items() if name != "vae"}
    for attached in imported.file.attach_parts(models).values():  # of the right sizes and kernels, all of them
        attached.detach()
