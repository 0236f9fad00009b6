"""Adapter files of a tiny base, as in the middle of a training."""

from pathlib import Path
from typing import Any

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.models import load_base
from tests.adapters.nets import disturb


def adapter_on(base: Path, path: Path, method: str = "lora", *, seed: int = 0, **options: Any) -> Path:
    """Write the file `path` and return it. options: targets, class_word, trigger; zero leaves the change at 0."""
    given = {"targets": "attn", "class_word": "dog", "trigger": "sks", "zero": False} | options
    with attach(load_base(base, "cpu").unet, METHODS[method].config_class(rank=2, alpha=3.0), given["targets"]) as on:
        for _, layer, adapter in on.layers():
            if not given["zero"]:
                disturb(adapter, layer.pristine, seed)
        file = AdapterFile.from_attached(
            on, base=str(base), trigger=given["trigger"], class_word=given["class_word"], training={}
        )
    file.save(path)
    return path
