"""Small valid adapter files to begin with: every method, as every tool has it that we write for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.container import write_plain
from dreamtune.adapters.formats import to_diffusers, to_kohya, to_peft_folder
from dreamtune.errors import ConfigError
from dreamtune.models import load_base
from tests.adapters.nets import disturb

TARGETS = r"(down_blocks\.0|mid_block).*attn2\.to_[kv]"
"""Four layers of the tiny base."""


def adapters(base: Path) -> Iterator[tuple[str, AdapterFile]]:
    """Adapters of the tiny base: of every method, and one with its text encoder and a word of its own."""
    models = load_base(base, "cpu")
    for method, kind in METHODS.items():
        with attach(models.unet, kind.config_class(rank=2, alpha=3.0), TARGETS) as on:
            for _, layer, adapter in on.layers():
                disturb(adapter, layer.base_weight)
            yield method, _file(on, base.name)
            if method == "lora":
                config = kind.config_class(rank=2, alpha=3.0)
                with attach(models.text_encoder, config, r"layers\.0.*[qv]_proj") as text:
                    file = AdapterFile.from_attached(
                        on,
                        base=base.name,
                        token="sks",
                        class_word="dog",
                        training={},
                        text_encoders={"text_encoder": text},
                    )
                yield "text", file
                vectors = {"embeddings": {"text_encoder": (2, 32)}}
                tensors = {**file.tensors, "embedding.text_encoder": torch.ones(2, 32)}
                yield "word", AdapterFile(**{**vars(file), **vectors, "tensors": tensors})


def write_seeds(base: Path, folder: Path) -> list[Path]:
    """Write them; the files, and the folders of PEFT."""
    return [path for name, file in adapters(base) for path in _written(name, file, folder)]


def _file(on: object, base: str) -> AdapterFile:
    return AdapterFile.from_attached(on, base=base, token="sks", class_word="dog", training={"steps": 3})  # pyright: ignore


def _written(name: str, file: AdapterFile, folder: Path) -> Iterator[Path]:
    path = folder / f"{name}-own.safetensors"
    file.save(path)
    yield path
    single: dict[str, Callable[[], tuple[dict[str, torch.Tensor], dict[str, str]]]] = {
        "kohya": lambda: to_kohya(file, torch.float16, sdxl=False),
        "diffusers": lambda: to_diffusers(file, torch.float32),
    }
    for tool, make in single.items():
        try:
            tensors, metadata = make()
        except ConfigError:  # a method or a word that the tool does not have
            continue
        path = folder / f"{name}-{tool}.safetensors"
        write_plain(path, tensors, metadata)
        yield path
    try:
        content, config = to_peft_folder(file, torch.float32)
    except ConfigError:
        return
    (folder / f"{name}-peft").mkdir()
    write_plain(folder / f"{name}-peft" / "adapter_model.safetensors", *content)
    (folder / f"{name}-peft" / "adapter_config.json").write_text(json.dumps(config))
    yield folder / f"{name}-peft"
