"""A tiny base in each of its forms, and all its weights."""

from pathlib import Path

import pytest
import torch

from dreamtune.models import Base, load_base
from tests.tiny_models import tiny_checkpoint


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(tiny, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tiny, tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def weights(base: Base) -> dict[str, torch.Tensor]:
    parts = {"unet": base.unet, "vae": base.vae, "text": base.text_encoder}
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}
