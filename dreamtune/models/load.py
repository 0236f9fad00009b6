"""Finding and loading a base: the embedded one, a diffusers folder, a single file or a model of the hub."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from ..errors import BaseModelError, ConfigError, first_line
from .base import Base

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$")


def load_base(name: str | Path, device: str = "auto") -> Base:
    """Load the base `name`: "pocket", a diffusers folder, a .safetensors checkpoint of SD 1.x/2.x, or a hub id.

    `device` is auto, cpu, cuda or mps. Raises BaseModelError when the base is missing, damaged or of another
    design, ConfigError when the device is not there.
    """
    target = pick_device(device)
    text = str(name)
    path = Path(text).expanduser()
    if text == "pocket":
        from ..pocket import path as pocket_path

        pipeline, label = _from_folder(pocket_path(), text), text
    elif path.is_dir():
        pipeline, label = _from_folder(path, text), path.resolve().name
    elif path.is_file():
        from .single_file import load_single_file

        with _quiet():
            pipeline, label = load_single_file(path), path.name
    elif path.suffix in (".safetensors", ".ckpt") or not _HUB_ID.match(text):
        raise BaseModelError(
            f"no base model {text!r}: give 'pocket', a diffusers folder, a .safetensors file or a hub id"
        )
    else:
        pipeline, label = _from_hub(text), text
    return _assemble(pipeline, label, target)


def pick_device(name: str) -> torch.device:
    """The device that `name` stands for; auto takes an accelerator if there is one. Raises ConfigError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present.get(name.partition(":")[0], False):
        raise ConfigError(f"the device {name!r} is not available here: use auto or cpu")
    return torch.device(name)


def _from_folder(folder: Path, shown: str) -> StableDiffusionPipeline:
    index = folder / "model_index.json"
    if not index.is_file():
        raise BaseModelError(f"{shown} is not a diffusers folder: it holds no model_index.json")
    _check_class(_class_name(index), shown)
    return _load(str(folder), shown, local_files_only=True)


def _from_hub(repo: str) -> StableDiffusionPipeline:
    from .hub import hub_file

    index, online = hub_file(repo, "model_index.json")
    _check_class(_class_name(index), repo)
    return _load(repo, repo, local_files_only=not online)


def _class_name(index: Path) -> object:
    try:
        return json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BaseModelError(f"{index} cannot be read: download the model again") from None


def _check_class(kind: object, shown: str) -> None:
    if kind != "StableDiffusionPipeline":
        raise BaseModelError(f"{shown} is a {kind}: only Stable Diffusion 1.x and 2.x can be used as base yet")


def _load(source: str, shown: str, **options: Any) -> StableDiffusionPipeline:
    try:
        with _quiet():
            return StableDiffusionPipeline.from_pretrained(
                source,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                low_cpu_mem_usage=True,
                **options,
            )
    except MemoryError:
        raise BaseModelError(f"not enough memory for the base {shown}: close other programs") from None
    except Exception as error:  # whatever a damaged or partial download makes the libraries raise
        raise BaseModelError(f"cannot load the base {shown}: {first_line(error)}; download it again") from None


def _assemble(pipeline: StableDiffusionPipeline, label: str, device: torch.device) -> Base:
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    if any(part is None for part in (*parts, pipeline.tokenizer)):
        raise BaseModelError(f"the base {label} is incomplete: it needs unet, vae, text_encoder and tokenizer")
    channels, latent = pipeline.unet.config["in_channels"], pipeline.vae.config["latent_channels"]
    if channels != latent:
        raise BaseModelError(
            f"the base {label} takes {channels} channels, not {latent}: inpainting models cannot be used"
        )
    for part in parts:
        part.requires_grad_(False).eval().float().to(device)
    pipeline.tokenizer.model_max_length = min(
        pipeline.tokenizer.model_max_length, pipeline.text_encoder.config.max_position_embeddings
    )
    return Base(
        id=label,
        family=_family(pipeline),
        unet=pipeline.unet,
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        device=device,
    )


def _family(pipeline: StableDiffusionPipeline) -> str:
    return {768: "sd1", 1024: "sd2"}.get(pipeline.unet.config["cross_attention_dim"], "pocket")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars and advice off the terminal while they load; errors still come."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
    for module in (diffusers_logging, transformers_logging):
        module.set_verbosity(logging.ERROR)
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, level, bar in zip((diffusers_logging, transformers_logging), levels, bars, strict=True):
            module.set_verbosity(level)
            if bar:
                module.enable_progress_bar()
