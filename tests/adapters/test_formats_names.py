"""Names of layers in kohya's files and in checkpoints are those of the original Stable Diffusion's UNet.

sd-scripts has that UNet for SDXL, and diffusers' for the others.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from dreamtune.adapters.formats.names import kohya_name, original_name
from dreamtune.errors import ConfigError
from tests.tiny_models import tiny_checkpoint


@pytest.mark.parametrize("design", ["tiny", "tiny_sdxl"])
def test_original_names(design: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A checkpoint in the original naming has each layer's weight under its name; kohya's of SDXL are the same."""
    folder: Path = request.getfixturevalue(design)
    xl, unet = design == "tiny_sdxl", UNet2DConditionModel.from_pretrained(folder / "unet")
    stored = load_file(tiny_checkpoint(folder, tmp_path / "base.safetensors"))
    for path, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            name = original_name(path, unet.config["layers_per_block"], xl)
            torch.testing.assert_close(stored[f"{name}.weight"], layer.weight.detach(), rtol=0, atol=0)
            inner = str(name).removeprefix("model.diffusion_model.") if xl else path
            assert kohya_name(path, xl) == f"lora_unet_{inner.replace('.', '_')}"


def test_names_as_sd_scripts_has_them() -> None:
    for path, name in {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k": (
            "input_blocks_4_1_transformer_blocks_0_attn1_to_k"
        ),
        "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj": (
            "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj"
        ),
        "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
        "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0": (
            "output_blocks_5_1_transformer_blocks_1_attn2_to_out_0"
        ),
        "down_blocks.0.resnets.0.time_emb_proj": "input_blocks_1_0_emb_layers_1",
        "add_embedding.linear_1": "label_emb_0_0",
        "conv_in": "input_blocks_0_0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks_8_0_skip_connection",
    }.items():
        assert kohya_name(path, xl=True) == f"lora_unet_{name}"


@pytest.mark.parametrize(
    "path",
    [
        "down_blocks.1.attentions.2.transformer_blocks.0.attn1.to_q",  # with three layers in a block, as no SDXL has
        "down_blocks.1.resnets.2.conv1",
        "down_blocks.1.upsamplers.0.conv",
        "first",
    ],
)
def test_layers_of_sdxl_without_a_name(path: str) -> None:
    with pytest.raises(ConfigError, match=f"kohya has no name for the SDXL layer {path}: use the format"):
        kohya_name(path, xl=True)
