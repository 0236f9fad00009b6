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
from dreamtune.adapters.interop.names import kohya_name, layer_path
from dreamtune.adapters.methods.lora import LoRAConfig
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
