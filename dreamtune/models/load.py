"""Finding and loading a base: the embedded one, a diffusers folder, a single file or a model of the hub."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from dreamtune.adapters.parts import holder
from dreamtune.errors import BaseModelError, ConfigError, first_line
from dreamtune.pocket import path as pocket_path

from .base import Base
from .designs import DESIGNS, FAMILIES, INPAINTING, PICKLE_ADVICE, REFINER, Pipeline, without_extras
from .hub import hub_file, hub_files
from .sdxl import SdxlBase
from .single_file import load_single_file, look_inside

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$")
_WHAT_IS_ONE = "use 'pocket', a diffusers folder, a .safetensors file or a hub id"
_MARKED = re.compile(r"\.fp16(-\d+-of-\d+)?\.safetensors$")
_NEEDED = {"unet", "vae", "text_encoder", "text_encoder_2"}
"""Components that have weights."""


def load_base(name: str | Path, device: str = "auto", precision: str = "fp32", *, local: bool = False) -> Base:
    """Load the base `name`: "pocket", a diffusers folder, a .safetensors checkpoint, or a hub id.

    It may be of the design of SD 1.x, 2.x or XL. `device` is auto, cpu, cuda or mps. `precision` is a key of
    PRECISIONS: that of UNet and text encoders, which in bf16 or fp16 take half the memory; the VAE is always fp32.
    `local` is for a name that a file told: the hub is not asked, what was downloaded before will do.
    Raises BaseModelError when the base is missing, damaged, pickled or of another design, ConfigError when the device
    is not there or cannot compute in that precision.
    """
    target = pick_device(device)
    if precision == "fp16" and target.type != "cuda":
        raise ConfigError("precision fp16 needs a CUDA device: use bf16 or fp32")
    found = _find(name, local)
    with quiet():
        pipeline = found.load(PRECISIONS[precision])
    return _assemble(pipeline, found, target)


def family_of(name: str | Path, *, local: bool = False) -> str:
    """The family of the base `name` (see Base.family), without its weights. Raises BaseModelError as load_base does."""
    return _find(name, local).family


@dataclass(frozen=True)
class _Found:
    """A base before its weights are loaded."""

    label: str
    family: str
    load: Callable[[torch.dtype], Pipeline]


def _find(name: str | Path, local: bool = False) -> _Found:
    text = str(name)
    path = Path(text).expanduser()
    if text == "pocket":
        return _in_folder(pocket_path(), text, text)
    if path.is_dir():
        return _in_folder(path, text, path.resolve().name)
    if path.is_file():
        inside = look_inside(path)
        return _Found(path.name, inside.family, partial(load_single_file, path, inside))
    if path.suffix in (".safetensors", ".ckpt") or not _HUB_ID.match(text):
        raise BaseModelError(f"no base model {text!r}: {_WHAT_IS_ONE}")
    return _on_hub(text, local)


def pick_device(name: str) -> torch.device:
    """The device that `name` stands for; auto takes an accelerator if there is one. Raises ConfigError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present.get(name.partition(":")[0], False):
        raise ConfigError(f"the device {name!r} is not available here: use auto or cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # each process of accelerate launch has a card of its own
        return torch.device(name, int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(name)


def _in_folder(folder: Path, shown: str, label: str) -> _Found:
    index = folder / "model_index.json"
    if not index.is_file():
        raise BaseModelError(f"{shown} is not a diffusers folder: it has no model_index.json")
    design = _design(index, shown)
    variant = _variant(_files_of(folder), shown)
    load = partial(_load, design, str(folder), shown, local_files_only=True, variant=variant)
    return _Found(label, _family(design, folder / "unet" / "config.json"), load)


def _on_hub(repo: str, local: bool) -> _Found:
    index, online = hub_file(repo, "model_index.json", local)
    design, (unet, _) = _design(index, repo), hub_file(repo, "unet/config.json", local)
    variant = _variant(hub_files(repo) if online else _files_of(index.parent), repo)
    load = partial(_load, design, repo, repo, local_files_only=not online, variant=variant)
    return _Found(repo, _family(design, unet), load)


def _files_of(folder: Path) -> list[str]:
    return [f"{name}/{file.name}" for name in _NEEDED if (folder / name).is_dir() for file in (folder / name).iterdir()]


def _variant(names: Iterable[str], shown: str) -> str | None:
    """What from_pretrained is to be told of the weights among files "part/file". Raises BaseModelError for pickles.

    fp16 as soon as one part has no others: asked for it, diffusers takes unmarked files where none are marked, but
    not the other way round.
    """
    parts: dict[str, list[str]] = {}
    for part, _, file in (name.partition("/") for name in names):
        if part in _NEEDED:
            parts.setdefault(part, []).append(file)
    halves = False
    for part, files in sorted(parts.items()):
        weights = [file for file in files if file.endswith(".safetensors")]
        if not weights and any(file.endswith((".bin", ".ckpt", ".pt")) for file in files):
            raise BaseModelError(f"{shown}: the weights in {part}/ are pickled: {PICKLE_ADVICE}")
        halves |= bool(weights) and all(map(_MARKED.search, weights))
    return "fp16" if halves else None


def _design(index: Path, shown: str) -> type[Pipeline]:
    """The pipeline class that a model_index.json names. Raises BaseModelError for one that cannot be a base."""
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BaseModelError(f"{index} cannot be read: download the model again") from None
    if kind in DESIGNS:
        return DESIGNS[kind]
    if kind == "StableDiffusionXLImg2ImgPipeline":
        raise BaseModelError(f"{shown} is {REFINER}")
    if isinstance(kind, str) and "Inpaint" in kind:
        raise BaseModelError(f"{shown} is a {kind}: {INPAINTING}")
    raise BaseModelError(f"{shown} is a {kind}: only Stable Diffusion 1.x, 2.x and XL can be used as base")


def _load(
    design: type[Pipeline],
    source: str,
    shown: str,
    dtype: torch.dtype,
    *,
    local_files_only: bool,
    variant: str | None = None,
) -> Pipeline:
    try:
        return design.from_pretrained(
            source,
            dtype={"default": dtype, "vae": torch.float32},
            use_safetensors=True,
            low_cpu_mem_usage=True,
            local_files_only=local_files_only,
            variant=variant,
            **without_extras(design),
        )
    except MemoryError:
        raise BaseModelError(f"not enough memory for the base {shown}: close other programs") from None
    except Exception as error:  # whatever a damaged or partial download makes the libraries raise
        if "`safetensors` weights" in str(error):
            raise BaseModelError(f"{shown} has no .safetensors weights, only pickled ones: {PICKLE_ADVICE}") from None
        raise BaseModelError(f"cannot load the base {shown}: {first_line(error)}; download it again") from None


def _assemble(pipeline: Pipeline, found: _Found, device: torch.device) -> Base:
    label = found.label
    xl = isinstance(pipeline, StableDiffusionXLPipeline)
    encoders = [pipeline.text_encoder, pipeline.text_encoder_2] if xl else [pipeline.text_encoder]
    tokenizers = [pipeline.tokenizer, pipeline.tokenizer_2] if xl else [pipeline.tokenizer]
    if xl and pipeline.text_encoder is None:
        raise BaseModelError(f"the base {label} is {REFINER}")
    if any(part is None for part in (pipeline.unet, pipeline.vae, *encoders, *tokenizers)):
        two = ", text_encoder_2 and tokenizer_2" if xl else ""
        raise BaseModelError(f"the base {label} is incomplete: it needs unet, vae, text_encoder and tokenizer{two}")
    channels, latent = pipeline.unet.config["in_channels"], pipeline.vae.config["latent_channels"]
    if channels != latent:
        raise BaseModelError(f"the base {label} takes {channels} channels, not {latent}: {INPAINTING}")
    if type(pipeline.scheduler).__name__.startswith("EDM"):
        raise BaseModelError(f"the base {label} was trained with EDM noise, which is not supported: use another base")
    for part in (pipeline.unet, pipeline.vae, *encoders):
        part.requires_grad_(False).eval().to(device)
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        longest = encoder.config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        # Old configurations have 2, for which transformers takes the highest number of a prompt for its end: the same
        # as long as there are no new words.
        holder("text_encoder", encoder).eos_token_id = tokenizer.eos_token_id
    common = {
        "id": label,
        "family": found.family,
        "unet": pipeline.unet,
        "vae": pipeline.vae,
        "text_encoder": pipeline.text_encoder,
        "tokenizer": pipeline.tokenizer,
        "scheduler": pipeline.scheduler,
        "device": device,
    }
    if not xl:
        return Base(**common)
    return SdxlBase(
        **common,
        text_encoder_2=pipeline.text_encoder_2,
        tokenizer_2=pipeline.tokenizer_2,
        zeros_for_empty=bool(pipeline.config["force_zeros_for_empty_prompt"]),
    )


def _family(design: type[Pipeline], unet: Path) -> str:
    """From the file unet/config.json; what is missing there is told when the weights are loaded."""
    try:
        width = json.loads(unet.read_text(encoding="utf-8"))["cross_attention_dim"]
    except (OSError, ValueError, KeyError, TypeError):
        width = None
    return "sdxl" if design is StableDiffusionXLPipeline else FAMILIES.get(width, "pocket")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' bars and advice off the terminal while they load; errors still come."""
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
