"""Adapters written in the formats of other tools, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dreamtune.adapters import AdapterFile, container
from dreamtune.adapters.formats import (
    KOHYA,
    PEFT,
    plain_lora,
    read_adapter,
    to_diffusers,
    to_embedding,
    to_kohya,
    to_peft_folder,
)
from dreamtune.pipelines.export.error import changes_of


def converted(
    file: AdapterFile, form: str, rank: int | None, weights: Mapping[str, Tensor] | None
) -> tuple[AdapterFile, dict[str, float]]:
    """The adapter to be written, and the energy kept by layer where that is not all.

    It stays of its method if the format has that and no rank is asked for.
    """
    native = {"lora": (), "peft": PEFT, "kohya": KOHYA}[form]
    if rank is None and file.method in native:
        return file, {}
    plain = plain_lora(file, rank, weights)
    return plain.file, {path: share for path, share in plain.energy.items() if share < 1}


def write_embedding(
    file: AdapterFile, dtype: torch.dtype, token: str | None, target: Path
) -> Iterator[tuple[str, Tensor]]:
    """Write `target`; there is no ΔW to compare."""
    container.write_plain(target, *to_embedding(file, dtype, token))
    return iter(())


def write_adapter(
    file: AdapterFile,
    form: str,
    energy: Mapping[str, float],
    dtype: torch.dtype,
    weights: Mapping[str, Tensor] | None,
    sdxl: bool | None,
    bundle: Mapping[str, Tensor],
    target: Path,
) -> Iterator[tuple[str, Tensor]]:
    """Write `target`, and yield the ΔW of every layer as read back; nothing if it needs weights that are missing.

    bundle: tensors to write next to the adapter's.
    """
    if form == "peft" and target.suffix != ".safetensors":
        (tensors, metadata), config = to_peft_folder(file, dtype)
        container.write_plain(target / "adapter_model.safetensors", tensors, metadata)
        (target / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    else:
        tensors, metadata = to_kohya(file, dtype, sdxl) if form == "kohya" else to_diffusers(file, dtype)
        kept = {"energy_kept": json.dumps(energy)} if energy else {}
        container.write_plain(target, {**tensors, **bundle}, metadata | kept)
    yield from changes_of(read_adapter(target).file, weights)
