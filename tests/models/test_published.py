"""The published configurations, at full size: on the meta device, since nobody can ship the weights."""

# diffusers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dreamtune.adapters import attach
from dreamtune.adapters.formats.names import kohya_name, layer_path, original_name
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.adapters.parts import holder
from dreamtune.models.published import published_configs

CLIP_L, VAE = 123_060_480, 83_653_863


def full_size(family: str) -> dict[str, nn.Module]:
    """Name of a part -> the part, without memory."""
    configs = published_configs(family, velocity=False, zero_snr=False)
    index = configs["model_index.json"]
    encoders: dict[str, Any] = {
        "CLIPTextModel": CLIPTextModel,
        "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    }
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel.from_config(configs["unet/config.json"]),
            "vae": AutoencoderKL.from_config(configs["vae/config.json"]),
            **{
                name: encoders[index[name][1]](CLIPTextConfig(**configs[f"{name}/config.json"]))
                for name in index
                if name.startswith("text_encoder")
            },
        }


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("sd1", {"unet": 859_520_964, "vae": VAE, "text_encoder": CLIP_L}),
        ("sd2", {"unet": 865_910_724, "vae": VAE, "text_encoder": 340_387_840}),
        ("sdxl", {"unet": 2_567_463_684, "vae": VAE, "text_encoder": CLIP_L, "text_encoder_2": 694_659_840}),
    ],
)
def test_sizes(family: str, counts: dict[str, int]) -> None:
    """Numbers of parameters of SD 1.5, SD 2.1 and SDXL 1.0 as they are published."""
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in full_size(family).items()} == counts


@pytest.mark.parametrize(
    ("family", "layers", "parameters"),
    [("sd1", 128, 797_184), ("sd2", 128, 829_952), ("sdxl", 560, 5_806_080)],
)
def test_adapter_on_the_attention_of_a_whole_unet(family: str, layers: int, parameters: int) -> None:
    """LoRA of rank 4: the sizes of files that diffusers' training scripts write with their defaults."""
    unet = full_size(family)["unet"]
    with torch.device("meta"):
        attached = attach(unet, LoRAConfig(rank=4, alpha=4.0))
    assert len(attached.adapters) == layers
    assert sum(p.numel() for p in attached.parameters()) == parameters
    names = {path: kohya_name(path, xl=family == "sdxl") for path in attached.adapters}
    assert len(set(names.values())) == layers
    assert all(layer_path(name) == path for path, name in names.items())


@pytest.mark.parametrize(("family", "layers"), [("sd1", 282), ("sd2", 282), ("sdxl", 794)])
def test_names_of_all_layers_of_a_unet_come_back(family: str, layers: int) -> None:
    """Of all that have a matrix or a convolution, in kohya's names, checkpoints' and those of other tools."""
    unet, xl = full_size(family)["unet"], family == "sdxl"
    paths = [path for path, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(paths) == layers
    for path in paths:
        original = str(original_name(path, 2, xl))
        old = original.removeprefix("model.")
        compiled = path.replace(".attentions.0.", ".attentions.0._orig_mod.")
        names = [
            kohya_name(path, xl),
            kohya_name(path, xl=False),
            original,
            old,
            f"unet.{old[len('diffusion_model.') :]}",
        ]
        names += [f"{before}{path}" for before in ("", "unet.", "unet.unet.", "lora_unet.", "base_model.model.")]
        names += [f"unet.base_model.model.{path}", f"base_model.model.unet.{path}", f"lycoris_{path.replace('.', '_')}"]
        names += [f"module.{path}", f"_orig_mod.{path}", f"unet._orig_mod.{path}", compiled]
        assert {layer_path(name) for name in names} == {path}, path


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_names_of_all_layers_of_text_encoders_come_back(family: str) -> None:
    parts = {name: part for name, part in full_size(family).items() if name.startswith("text_encoder")}
    for part, encoder in parts.items():
        own = holder(part, encoder)
        paths = [path for path, layer in own.named_modules() if isinstance(layer, nn.Linear) and "." in path]
        number = 2 if part == "text_encoder_2" else 1
        for path in paths:
            names = [kohya_name(f"{part}.{path}", xl=True), kohya_name(f"{part}.{path}", xl=len(parts) > 1)]
            names += [f"{part}.{path}", f"{part}.text_model.{path}", f"base_model.model.{part}.text_model.{path}"]
            names += [f"lora_te{number}.text_model.{path}", f"lora_te{number}._orig_mod.text_model.{path}"]
            clip = "clip_g" if number == 2 else "clip_h" if family == "sd2" else "clip_l"
            names += [f"{clip}.text_model.{path}", f"text_encoders.{clip}.transformer.text_model.{path}"]
            names += [path, f"text_model.{path}", f"lycoris_text_model_{path.replace('.', '_')}"] if number == 1 else []
            assert {layer_path(name) for name in names} == {f"{part}.{path}"}


@pytest.mark.parametrize(("family", "layers"), [("sd1", (48,)), ("sd2", (92,)), ("sdxl", (48, 128))])
def test_adapters_on_whole_text_encoders(family: str, layers: tuple[int, ...]) -> None:
    parts = full_size(family)
    with torch.device("meta"):
        found = [
            len(attach(part, LoRAConfig(rank=4, alpha=4.0), "text").adapters)
            for name, part in parts.items()
            if name.startswith("text_encoder")
        ]
    assert tuple(found) == layers


def test_velocity_and_zero_terminal_snr() -> None:
    plain = published_configs("sdxl", velocity=False, zero_snr=False)["scheduler/scheduler_config.json"]
    assert (plain["prediction_type"], plain["timestep_spacing"]) == ("epsilon", "leading")
    other = published_configs("sdxl", velocity=True, zero_snr=True)["scheduler/scheduler_config.json"]
    assert (other["prediction_type"], other["timestep_spacing"]) == ("v_prediction", "trailing")
    assert other["rescale_betas_zero_snr"] is True
    assert published_configs("sd2", velocity=True, zero_snr=False)["unet/config.json"]["sample_size"] == 96
