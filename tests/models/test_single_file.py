"""Single-file checkpoints are what they were saved as, tell what they are, and others are refused."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamtune.errors import BaseModelError
from dreamtune.models import Base, load_base
from dreamtune.models.single_file import look_inside
from tests.models.conftest import weights
from tests.tiny_models import tiny_checkpoint, tiny_folder


def test_single_file_has_the_same_weights(base: Base, checkpoint: Path) -> None:
    single = load_base(checkpoint, device="cpu")
    assert single.id == "model.safetensors", "no folder of this machine"
    expected = weights(base)
    assert weights(single).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(single).items())
    assert single.tokenizer("a sks dog").input_ids == base.tokenizer("a sks dog").input_ids


def test_single_file_of_the_second_generation(tmp_path: Path) -> None:
    """Its text encoder is stored in OpenCLIP's form."""
    folder = tiny_folder(tmp_path / "second", "v_prediction", 1024)
    expected = weights(load_base(folder, device="cpu"))
    single = load_base(tiny_checkpoint(folder, tmp_path / "one.safetensors", "open_clip"), device="cpu")
    assert (single.family, single.prediction_type) == ("sd2", "v_prediction")
    assert weights(single).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(single).items())


def test_damaged_single_files(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copytree(checkpoint.with_suffix(""), path.with_suffix(""))
    path.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(BaseModelError, match="cannot read the checkpoint .*; download it again"):
        load_base(path, device="cpu")
    tensors = load_file(checkpoint)
    del tensors["model.diffusion_model.time_embed.0.weight"]
    save_file(tensors, path)
    with pytest.raises(BaseModelError, match="cannot load the checkpoint") as caught:
        load_base(path, device="cpu")
    assert "\n" not in str(caught.value)


IN = "model.diffusion_model.input_blocks.0.0.weight"
CROSS = "model.diffusion_model.input_blocks.%d.1.transformer_blocks.0.attn2.to_k.weight"
SD2 = {IN: (320, 4, 3, 3), CROSS % 1: (320, 1024)}
SDXL = {IN: (320, 4, 3, 3), CROSS % 4: (640, 2048), "conditioner.embedders.1.model.x": (1,)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_mid_block.lora_up.weight": (1,)}, "an adapter: pass it as one"),
        ({"anything": (1,)}, "no base model"),
        ({IN: (320, 4, 3, 3)}, "has another architecture: only Stable Diffusion 1.x, 2.x and XL"),
        ({**SD2, IN: (320, 9, 3, 3)}, "inpainting and editing models are not supported"),
        ({IN: (384, 4, 3, 3), CROSS % 4: (768, 1280), "conditioner.embedders.0.model.x": (1,)}, "the SDXL refiner"),
        ({IN: (320, 4, 3, 3), CROSS % 4: (640, 2048)}, "an SDXL without its text encoders"),
        ({**SDXL, "edm_mean": (4,)}, "trained with EDM noise, which is not supported"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, tensors: dict[str, tuple[int, ...]], message: str) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(BaseModelError, match=message):
        load_base(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("tensors", "told", "expected"),
    [
        (SD2, "v", (True, False)),
        (SD2, "epsilon", (False, False)),
        (SDXL, None, (False, False)),
        (SDXL | {"v_pred": (1,)}, None, (True, False)),
        (SDXL | {"v_pred": (1,), "ztsnr": (1,)}, None, (True, True)),
        (SDXL, "v", (True, False)),
    ],
)
def test_what_a_file_says_of_its_objective(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]], told: str | None, expected: tuple[bool, bool]
) -> None:
    metadata = {"modelspec.prediction_type": told} if told else None
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "x.safetensors", metadata)
    found = look_inside(tmp_path / "x.safetensors")
    assert (found.velocity, found.zero_snr) == expected


@pytest.mark.parametrize(("spread", "velocity"), [(0.05, False), (0.2, True)])
def test_second_generation_without_metadata_is_told_by_its_weights(
    tmp_path: Path, spread: float, velocity: bool
) -> None:
    norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    tensors = {name: torch.zeros(shape) for name, shape in SD2.items()}
    save_file(tensors | {norm: torch.linspace(-1, 1, 320) * spread * 3**0.5}, tmp_path / "x.safetensors")
    assert look_inside(tmp_path / "x.safetensors").velocity is velocity


def test_checkpoint_without_configurations_says_where_to_put_them(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path / "alone.safetensors")
    with pytest.raises(BaseModelError, match=r"unknown text width of 32: .* into a folder alone/"):
        load_base(tmp_path / "alone.safetensors")


def test_checkpoint_without_tokenizer_says_which_one(tmp_path: Path) -> None:
    source = tiny_folder(tmp_path / "wide", width=768)
    path = tiny_checkpoint(source, tmp_path / "alone.safetensors")
    shutil.rmtree(path.with_suffix(""))
    with pytest.raises(
        BaseModelError, match=r"tokenizer of openai/clip-vit-large-patch14: put .* into .*alone/tokenizer"
    ):
        load_base(path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(BaseModelError, match="can run code"):
        load_base(tmp_path / "model.ckpt")
