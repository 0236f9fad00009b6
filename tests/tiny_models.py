"""Tiny random base models, made in a moment: a diffusers folder and a single-file checkpoint of the same weights."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOptionalMemberAccess=false
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_tokenizer(folder: Path, **options: str) -> CLIPTokenizer:
    """One token per printable ASCII character, with and without end of word."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, **options)


def tiny_folder(folder: Path, prediction_type: str = "epsilon", width: int = 32) -> Path:
    """Write a random Stable Diffusion pipeline for pictures of 32 pixels and return its folder.

    width: of the text embeddings; 768 is that of SD 1.x, 1024 that of SD 2.x.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer(folder.parent / f"{folder.name}-tokenizer")
        unet = _tiny_unet(
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=4,
        )
        vae = _tiny_vae()
        text = CLIPTextModel(_tiny_text(tokenizer, width))
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            **_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def tiny_sdxl_folder(folder: Path) -> Path:
    """Write a random SDXL pipeline for pictures of 32 pixels and return its folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer(folder.parent / f"{folder.name}-tokenizer")
        unet = _tiny_unet(
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=32 + 48,
            attention_head_dim=(4, 8),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 48,
        )
        vae = _tiny_vae()
        text = CLIPTextModel(_tiny_text(tokenizer, 32, layers=2))
        text_2 = CLIPTextModelWithProjection(_tiny_text(tokenizer, 48, layers=2))
    second = tiny_tokenizer(folder.parent / f"{folder.name}-tokenizer-2", pad_token="!")
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _tiny_unet(**design: Any) -> UNet2DConditionModel:
    """Two blocks, for latents of 8 cells a side."""
    return UNet2DConditionModel(sample_size=8, block_out_channels=(32, 64), norm_num_groups=8, **design)


def _tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        norm_num_groups=4,
        sample_size=32,
    )


def _tiny_text(tokenizer: CLIPTokenizer, width: int, layers: int = 1) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_checkpoint(folder: Path, path: Path, encoder: str = "clip") -> Path:
    """Write the weights of a tiny folder as one file in the names of the original Stable Diffusion.

    encoder: whose names a lone text encoder has: "clip" as in SD 1.x, "open_clip" as in 2.x; those of XL have both.
    Beside the file lies a folder of the same name with configurations and tokenizer, but no weights.
    """
    stored = {part: _stored(folder / part) for part in ("unet", "vae", "text_encoder")}
    layers = json.loads((folder / "unet" / "config.json").read_text())["layers_per_block"]
    tensors = {f"model.diffusion_model.{_original_unet(k, layers)}": t for k, t in stored["unet"].items()}
    tensors |= {f"first_stage_model.{_original_vae(k)}": t for k, t in stored["vae"].items()}
    if (folder / "text_encoder_2").is_dir():
        tensors |= _clip(stored["text_encoder"], "conditioner.embedders.0.transformer.")
        tensors |= _open_clip(_stored(folder / "text_encoder_2"), "conditioner.embedders.1.model.")
    elif encoder == "open_clip":
        tensors |= _open_clip(stored["text_encoder"], "cond_stage_model.model.")
    else:
        tensors |= _clip(stored["text_encoder"], "cond_stage_model.transformer.")
    for name in [name for name in tensors if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name)]:
        tensors[name] = tensors[name][:, :, None, None]  # the original has 1x1 convolutions there
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    shutil.copytree(folder, path.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def _stored(part: Path) -> dict[str, Tensor]:
    (file,) = part.glob("*.safetensors")
    return load_file(file)


def _clip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}


def _open_clip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Names of OpenCLIP, which keeps query, key and value in one matrix and the projection transposed."""
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    found = {}
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif ".q_proj." in name:
            parts = [tensors[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
            found[_resblock(name).replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[_resblock(name)] = tensor
    return {prefix + name: tensor for name, tensor in found.items()}


def _resblock(name: str) -> str:
    for ours, theirs in (
        ("embeddings.token_embedding", "token_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("encoder.layers.", "transformer.resblocks."),
        ("self_attn", "attn"),
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("final_layer_norm", "ln_final"),
        (".fc1.", ".c_fc."),
        (".fc2.", ".c_proj."),
    ):
        name = name.replace(ours, theirs)
    return name


def _original_unet(name: str, layers: int) -> str:
    """diffusers' name of a tensor of a tiny UNet (two blocks of `layers` layers) -> the original's."""
    whole = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    for start, original in whole.items():
        if name.startswith(f"{start}."):
            return original + name.removeprefix(start)
    place, kind, index, rest = re.fullmatch(r"(mid_block|\w+_blocks\.\d)\.(\w+)\.(\d)\.(.+)", name).groups()
    if kind == "resnets":
        rest = re.sub(r"^\w+", lambda match: resnet[match[0]], rest)
    side, _, block = place.partition(".")
    if side == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{rest}"
    number = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{number + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # it comes last in its block, after the attention if there is one
        return f"output_blocks.{number + layers}.{1 if layers == 1 else 2}.{rest}"
    first = (
        f"input_blocks.{number + 1 + int(index)}" if side == "down_blocks" else f"output_blocks.{number + int(index)}"
    )
    return f"{first}.{1 if kind == 'attentions' else 0}.{rest}"


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
