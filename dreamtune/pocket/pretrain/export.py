"""Putting the trained parts together as a StableDiffusionPipeline folder in half precision, with its model card."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from .evaluators import NETWORKS
from .judge import judge
from .maker import Maker
from .tokenizer import save_tokenizer
from .unet import new_scheduler

CURVE_POINTS = 60


def export_evaluators(maker: Maker, weights: Path) -> Path:
    """Write `weights/evaluators`: the networks in half precision and what was measured of them; return it."""
    target, partial = weights / "evaluators", weights / "evaluators.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    evaluators = maker.evaluators()
    for name, attribute in NETWORKS.items():
        tensors = {k: v.half().contiguous() for k, v in getattr(evaluators, attribute).state_dict().items()}
        save_file(tensors, partial / f"{name}.safetensors")
    (partial / "evaluation.json").write_text(json.dumps(judge(maker), indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    return target


def export(maker: Maker, weights: Path) -> Path:
    """Write `weights/base` from the work folder's finished stages and return it.

    The folder is complete or not there: it is built beside its place and then renamed.
    """
    trained = maker.work / "unet" / "model"
    unet = UNet2DConditionModel.from_pretrained(trained if trained.exists() else maker.work / "unet" / "start")
    vae = maker.vae()
    for part in (unet, vae):
        part.register_to_config(_name_or_path="pocket")  # else the work folder's path is saved
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=maker.text_encoder(),
        tokenizer=maker.tokenizer,
        unet=unet.to(maker.device),  # pyright: ignore[reportArgumentType]
        scheduler=new_scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    target, partial = weights / "base", weights / "base.partial"
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(partial, safe_serialization=True)
    save_tokenizer(maker.tokenizer, partial / "tokenizer")
    card = _training_record(maker)
    (partial / "training.json").write_text(json.dumps(card, indent=1) + "\n")
    if target.exists():
        for kept in ("evaluation.json", "README.md"):
            if (target / kept).exists():
                shutil.copy2(target / kept, partial / kept)
        shutil.rmtree(target)
    os.replace(partial, target)
    return target


def _training_record(maker: Maker) -> dict[str, Any]:
    """Configuration, software and a thinned curve of every stage."""
    earlier = maker.work / "earlier.json"
    stages: dict[str, Any] = {}
    for file in sorted(maker.work.glob("*/curve.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        step = max(1, len(rows) // CURVE_POINTS)
        stages[file.parent.name] = {
            "minutes": round(rows[-1]["seconds"] / 60, 1),
            "steps": rows[-1]["step"],
            "samples": rows[-1]["samples"],
            "curve": rows[:-1:step] + rows[-1:],
        }
    return {
        "config": dataclasses.asdict(maker.config),
        "device": maker.device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stages": stages,
        "continued_from": json.loads(earlier.read_text()) if earlier.exists() else None,
    }
