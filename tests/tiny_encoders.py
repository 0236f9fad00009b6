"""Tiny random DINO and CLIP folders, made in a moment."""

# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from tests.tiny_models import tiny_tokenizer

_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_dino(folder: Path, kind: str = "dinov2") -> Path:
    """Write a random DINOv2 (or with "vit" a DINO) for pictures of 28 pixels and return its folder."""
    config = {"dinov2": Dinov2Config, "vit": ViTConfig}[kind](image_size=28, patch_size=14, **_SMALL)
    _save({"dinov2": Dinov2Model, "vit": ViTModel}[kind], config, folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def tiny_clip(folder: Path) -> Path:
    """Write a random CLIP for pictures of 28 pixels, with its tokenizer, and return its folder."""
    tokenizer = tiny_tokenizer(folder)
    tokenizer.save_pretrained(folder)
    text = {**_SMALL, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    vision = {**_SMALL, "image_size": 28, "patch_size": 14}
    _save(CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=16), folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def _save(kind: type[PreTrainedModel], config: object, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        with torch.no_grad():  # as initialised, all pictures look nearly alike
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
