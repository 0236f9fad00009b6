"""A base with an adapter merged in, as a diffusers folder or as a single file."""

# diffusers annotates more narrowly than it accepts.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats.names import original_name
from dreamtune.adapters.parts import TEXT_ENCODERS, holder, split_part
from dreamtune.errors import ConfigError
from dreamtune.models import Base

_HASHES = ("modelspec.hash_", "sshs_")
"""Prefixes of metadata keys that hold hashes of a single file's tensors, by ModelSpec and by kohya."""


def write_merged(
    form: str,
    file: AdapterFile,
    base: Base,
    base_weight: Mapping[str, Tensor],
    source: Path,
    dtype: torch.dtype | None,
    target: Path,
    *,
    any_base: bool,
) -> Iterator[tuple[str, Tensor]]:
    """Write `base` with W + ΔW for W to `target`, and yield each layer's path and (out, in) change as read back.

    form: "diffusers" for a folder, "checkpoint" for a copy of the single file `source` of the base. base_weight: layer
    path -> a copy of its W. dtype: of all tensors, None for the file's own. The base is used up. Raises ConfigError for
    a layer that a single file does not hold under a name known here and for values beyond `dtype`, OSError if
    `target` cannot be written.
    """
    for attached in file.attach_parts(base.parts, any_base=any_base).values():
        attached.merge()
    if form == "checkpoint":
        names = _write_checkpoint(file, base, source, dtype, target)
        found = load_file(target)
    else:
        names = _write_folder(file, base, dtype or torch.float32, target)
        found = {
            f"{part}/{name}": tensor
            for part in base.parts
            for stored in (target / part).glob("*.safetensors")
            for name, tensor in load_file(stored).items()
        }
    for path, name in names.items():
        yield path, found[name].float().flatten(1) - base_weight[path].float()


def _merged_weight(path: str, base: Base) -> Tensor:
    part, inner = split_part(path)
    return holder(part, base.parts[part]).get_parameter(f"{inner}.weight").detach()


def _write_folder(file: AdapterFile, base: Base, dtype: torch.dtype, target: Path) -> dict[str, str]:
    """Layer path -> part/name of its weight in the folder."""
    for path in file.layers:
        _fits(path, _merged_weight(path, base), dtype)
    pipeline = base.pipeline().to(dtype=dtype)
    for part in (base.unet, base.vae):
        part.register_to_config(_name_or_path=base.id)  # else the path of the base's folder is saved
    pipeline.register_to_config(_name_or_path=base.id)
    with _told_by_the_system():
        pipeline.save_pretrained(target, safe_serialization=True)
    names = {}
    for path in file.layers:
        part, inner = split_part(path)
        outer = "text_model." if holder(part, base.parts[part]) is not base.parts[part] else ""
        names[path] = f"{part}/{outer}{inner}.weight"
    return names


def _write_checkpoint(
    file: AdapterFile, base: Base, source: Path, dtype: torch.dtype | None, target: Path
) -> dict[str, str]:
    """Layer path -> name of its weight in the file."""
    with safe_open(source, "pt") as opened:
        metadata = {key: value for key, value in (opened.metadata() or {}).items() if not key.startswith(_HASHES)}
    tensors, names = load_file(source), {}
    for path in file.layers:
        name = f"{original_name(path, base.unet.config['layers_per_block'], base.family == 'sdxl')}.weight"
        merged = _merged_weight(path, base)
        if name in tensors and tensors[name].shape[2:].numel() == merged.shape[2:].numel() == 1:
            merged = merged.reshape(-1, *tensors[name].shape[1:])  # kernels of 1x1 are linear layers here or there
        if name not in tensors or tensors[name].shape != merged.shape:
            what = "text encoder" if split_part(path)[0] in TEXT_ENCODERS else "layer"
            raise ConfigError(f"{source} has no {what} {path} in a known form: use the format diffusers")
        tensors[name], names[path] = _fits(path, merged, dtype or tensors[name].dtype), name
    if base.scheduler.config.get("rescale_betas_zero_snr"):  # told so in single files, ComfyUI looks for them too
        tensors = {"ztsnr": torch.zeros(0), "v_pred": torch.zeros(0)} | tensors
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with _told_by_the_system():
        save_file(tensors, target, metadata)
    return names


def _fits(path: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    cast = weight.to(dtype)
    if not cast.isfinite().all():
        raise ConfigError(f"the values of layer {path} exceed the range of {dtype}: use fp32 or bf16")
    return cast


@contextmanager
def _told_by_the_system() -> Iterator[None]:
    """Raise OSError where a library in Rust wraps one into an error of its own: of a full disk, for example."""
    try:
        yield
    except Exception as fault:  # safetensors has a class for it, tokenizers a plain Exception
        number = re.search(r"\(os error (\d+)\)", str(fault))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
