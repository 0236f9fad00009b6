"""Adapters on the tiny base, of its text encoder too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.models import Base, load_base
from tests.adapters.nets import disturb

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(tiny, "cpu")


@pytest.fixture
def make(tiny: Path, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write the file of an adapter as in the middle of a training, of the text encoder too; its base is found."""
    monkeypatch.chdir(tiny.parent)

    def made(name: str, method: str = "lora", token: str | None = None, words: int = 0) -> Path:
        parts = {}
        for part, targets in (("unet", "attn"), ("text_encoder", "text")):
            parts[part] = attach(base.parts[part], METHODS[method].config_class(rank=2), targets, seed=len(name))
            for index, (_, layer, adapter) in enumerate(parts[part].layers()):
                disturb(adapter, layer.base_weight, 100 * len(name) + index)
                for parameter in adapter.parameters():
                    parameter.data *= 0.3
        file = AdapterFile.from_attached(
            parts["unet"],
            base=str(tiny),
            token=name if token is None else token,
            class_word="dog",
            training={},
            text_encoders={"text_encoder": parts["text_encoder"]},
        )
        for part in parts.values():
            part.detach()
        if words:
            vectors = torch.randn(words, 32, generator=torch.Generator().manual_seed(len(name)))
            tensors = {**file.tensors, "embedding.text_encoder": vectors}
            file = replace(file, embeddings={"text_encoder": (words, 32)}, tensors=tensors)
        path = tmp_path / f"{name}.safetensors"
        file.save(path)
        return path

    return made
