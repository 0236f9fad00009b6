"""Tiny random base models, made in a moment: a diffusers folder and a single-file checkpoint of the same weights."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """One token per printable ASCII character, with and without end of word."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def tiny_folder(folder: Path, prediction_type: str = "epsilon", width: int = 32) -> Path:
    """Write a random Stable Diffusion pipeline for pictures of 32 pixels and return its folder.

    width: of the text embeddings; 768 is that of SD 1.x, 1024 that of SD 2.x.
    """
    state = torch.get_rng_state()
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        norm_num_groups=4,
        sample_size=32,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    torch.set_rng_state(state)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_checkpoint(folder: Path, path: Path) -> Path:
    """Write the weights of a :func:`tiny_folder` as one file in the names of the original Stable Diffusion 1.x.

    Beside it lies a folder of the same name with configurations and tokenizer, but no weights.
    """
    tensors = {}
    for part, prefix, rename in (
        ("unet", "model.diffusion_model.", _original_unet),
        ("vae", "first_stage_model.", _original_vae),
        ("text_encoder", "cond_stage_model.transformer.text_model.", lambda name: name.removeprefix("text_model.")),
    ):
        (file,) = (folder / part).glob("*.safetensors")
        tensors |= {prefix + rename(name): tensor.contiguous() for name, tensor in load_file(file).items()}
    for name in [name for name in tensors if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name)]:
        tensors[name] = tensors[name][:, :, None, None]  # the original has 1x1 convolutions there
    save_file(tensors, path)
    shutil.copytree(folder, path.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def _original_unet(name: str) -> str:
    """diffusers' name of a tensor of the tiny UNet (one layer per block) -> the original's."""
    whole = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
    }
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    start = max((key for key in whole if name.startswith(f"{key}.")), key=len)
    rest = name.removeprefix(start)
    if "resnets" in start:
        rest = re.sub(r"^\.(\w+)", lambda match: f".{resnet[match[1]]}", rest)
    return whole[start] + rest


def _original_vae(name: str) -> str:
    """diffusers' name of a tensor of the tiny VAE (three blocks) -> the original's."""
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{2 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{2 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    for ours, original in (
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ):
        name = name.replace(ours, original)
    return name


def pictures(folder: Path, count: int = 3) -> Path:
    """Write `count` different pictures of 48 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = Image.radial_gradient("L").resize((48, 48)).rotate(30 * index)
        Image.merge(
            "RGB", (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).point(lambda v: 255 - v), image)
        ).crop((index * 4, 0, 48, 48)).save(folder / f"{index}.png")
    return folder
