"""Adapter files of a tiny base, as in the middle of a training."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.models import load_base
from tests.adapters.nets import disturb


@lru_cache(maxsize=8)
def _unet(base: Path) -> Any:
    """Loading it takes longer than the adapter, which is taken off again."""
    return load_base(base, "cpu").unet


def adapter_on(base: Path, path: Path, method: str = "lora", *, seed: int = 0, **options: Any) -> Path:
    """Write the file `path`. options: targets, class_word, token, training; zero leaves the change at 0."""
    usual = {"targets": "attn", "class_word": "dog", "token": "sks", "training": {}, "zero": False}
    given = usual | options
    with attach(_unet(base), METHODS[method].config_class(rank=2, alpha=3.0), given["targets"]) as on:
        for _, layer, adapter in on.layers():
            if not given["zero"]:
                disturb(adapter, layer.base_weight, seed)
        told = {name: given[name] for name in ("token", "class_word", "training")}
        file = AdapterFile.from_attached(on, base=str(base), **told)
    file.save(path)
    return path
