"""Bases are found, are what they were saved as, and every other thing is refused in a line that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamtune.errors import BaseModelError, ConfigError
from dreamtune.models import Base, load_base
from dreamtune.models.load import pick_device
from tests.models.conftest import weights
from tests.tiny_models import tiny_folder


def test_folder_is_loaded_frozen_in_fp32(base: Base) -> None:
    assert (base.id, base.family, base.resolution, base.prediction_type) == ("tiny", "pocket", 32, "epsilon")
    for part in (base.unet, base.vae, base.text_encoder):
        assert not part.training
        assert all(not p.requires_grad and p.dtype == torch.float32 for p in part.parameters())


def test_half_precision_on_disk_becomes_fp32(tiny: Path, base: Base, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "half")
    for file in (tmp_path / "half").rglob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    half = weights(load_base(tmp_path / "half", device="cpu"))
    for name, tensor in weights(base).items():
        assert half[name].dtype == torch.float32
        assert torch.equal(half[name], tensor.half().float())


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2")])
def test_family_and_prediction(tmp_path: Path, width: int, family: str) -> None:
    base = load_base(tiny_folder(tmp_path / "wide", "v_prediction", width), device="cpu")
    assert (base.family, base.prediction_type) == (family, "v_prediction")
    assert torch.equal(base.noise_scheduler().alphas_cumprod, base.scheduler.alphas_cumprod)


def test_half_precision_takes_half_the_memory_and_the_vae_stays_whole(tiny: Path, base: Base, checkpoint: Path) -> None:
    for place in (tiny, checkpoint):
        half = load_base(place, device="cpu", precision="bf16")
        for name, tensor in weights(half).items():
            wanted = torch.float32 if name.startswith("vae.") else torch.bfloat16
            assert tensor.dtype == wanted, name
            assert torch.equal(tensor, weights(base)[name].to(wanted))
        settings = {"size": 32, "steps": 3, "guidance": 4.0}
        drawn, expected = (it.draw(["a dog"], [7], **settings) for it in (half, base))
        assert drawn.dtype == torch.float32
        torch.testing.assert_close(drawn, expected, atol=0.2, rtol=0)
        (found,), (wanted) = half.condition(["a dog"]), base.condition(["a dog"])
        assert found.embedding.dtype == torch.float32
        torch.testing.assert_close(found.embedding, wanted[0].embedding, atol=0.05, rtol=0)


@pytest.mark.parametrize("parts", [["unet", "vae", "text_encoder"], ["unet"], ["vae"], ["unet", "text_encoder"]])
@pytest.mark.parametrize("both", [False, True])
def test_half_precision_alone_on_disk_is_found(
    tiny: Path, base: Base, tmp_path: Path, parts: list[str], both: bool
) -> None:
    """Of some parts, as where another VAE was put into a folder; the others may have both."""
    half = tmp_path / "half"
    shutil.copytree(tiny, half)
    for file in half.rglob("*.safetensors"):
        marked = file.with_suffix(".fp16.safetensors")
        if file.parent.name in parts:
            file.rename(marked)
        elif both:
            shutil.copy(file, marked)
    assert torch.equal(load_base(half, device="cpu").unet.conv_in.weight, base.unet.conv_in.weight)


@pytest.mark.parametrize(("rank", "device"), [(None, "cuda"), ("0", "cuda:0"), ("1", "cuda:1"), ("3", "cuda:1")])
def test_each_process_of_a_launch_loads_onto_its_own_card(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, device: str
) -> None:
    """The one that accelerate takes for it; all on the first would fill that."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert pick_device("auto") == pick_device("cuda") == torch.device(device)
    assert pick_device("cpu") == torch.device("cpu")


def test_fp16_needs_cuda(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        load_base(tiny, device="cpu", precision="fp16")


def without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def of_another_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))


def refiner(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLImg2ImgPipeline"}))


def inpainting_pipeline(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionInpaintPipeline"}))


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")


def of_another_noise(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EDMEulerScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "EDMEulerScheduler"}))


def without_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def cut_short(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def for_inpainting(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"] = torch.zeros(32, 9, 3, 3)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_index, "not a diffusers folder: it has no model_index.json"),
        (broken_index, "cannot be read: download the model again"),
        (of_another_class, "is a FluxPipeline: only Stable Diffusion 1.x, 2.x and XL"),
        (refiner, "is the SDXL refiner, .* use the SDXL base"),
        (inpainting_pipeline, "StableDiffusionInpaintPipeline: inpainting and editing models"),
        (pickled, "the weights in unet/ are pickled: .* published as .safetensors, or convert it first"),
        (of_another_noise, "trained with EDM noise, which is not supported"),
        (without_unet, "cannot load the base .*; download it again"),
        (cut_short, "cannot load the base .*; download it again"),
        (for_inpainting, "takes 9 channels, not 4: inpainting and editing models"),
    ],
)
def test_unusable_folders(tiny: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny, folder)
    damage(folder)
    with pytest.raises(BaseModelError, match=message) as caught:
        load_base(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", "missing.safetensors", ""])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(BaseModelError, match="no base model|no model_index"):
        load_base(name)


def test_unknown_device() -> None:
    with pytest.raises(ConfigError, match="'tpu' is not available here: use auto or cpu"):
        load_base("pocket", device="tpu")
