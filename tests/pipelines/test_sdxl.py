"""Adapters of SDXL bases act in diffusers as they do here, and all commands take such bases."""

# diffusers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.formats import read_adapter
from dreamtune.errors import ConfigError
from dreamtune.models import Base, load_base
from dreamtune.models.conditioning import unet_inputs
from dreamtune.pipelines.export.inspect import inspect
from dreamtune.pipelines.export.run import export
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from tests.adapters.nets import disturb
from tests.tiny_models import tiny_checkpoint


def write(path: Path, base: Base, method: str = "lora", parts: tuple[str, ...] = ()) -> Path:
    """The file of an adapter as in the middle of a training, on the UNet and these text encoders."""
    config = METHODS[method].config_class(rank=2, alpha=3.0)
    unet = attach(base.unet, config)
    others = {part: attach(base.parts[part], config, "text") for part in parts}
    for one in (unet, *others.values()):
        for _, layer, adapter in one.layers():
            disturb(adapter, layer.base_weight)
    file = AdapterFile.from_attached(
        unet, base="tiny-xl", token="sks", class_word="dog", training={}, text_encoders=others
    )
    for one in (unet, *others.values()):
        one.detach()
    file.save(path)
    return path


@torch.no_grad()
def noise(base: Base) -> Tensor:
    """What all parts make of a prompt together."""
    inputs = unet_inputs(base.condition(["a sks dog"]), torch.tensor([[32.0, 32, 0, 0, 32, 32]]))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return base.unet(x, 10, **inputs).sample


@torch.no_grad()
def noise_of(pipe: Any) -> Tensor:
    embedding, _, pooled, _ = pipe.encode_prompt(["a sks dog"], None, torch.device("cpu"), 1, False)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    more = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]])}
    return pipe.unet(x, 10, embedding, added_cond_kwargs=more).sample


def own(place: Path, path: Path) -> Tensor:
    base = load_base(place, "cpu")
    read_adapter(path).file.attach_parts(base.parts)
    return noise(base)


def pipeline(place: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(place, add_watermarker=False)


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


BOTH = ("text_encoder", "text_encoder_2")


@pytest.mark.parametrize(("method", "form"), [("lora", "peft"), ("dora", "peft"), ("lora", "kohya")])
@pytest.mark.parametrize("parts", [(), BOTH])
def test_diffusers_reads_the_same(
    method: str, form: str, parts: tuple[str, ...], tiny_sdxl: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_sdxl, "cpu")
    plain = noise(base)
    path, out = write(tmp_path / "adapter.safetensors", base, method, parts), tmp_path / "out.safetensors"
    assert export(path, out, form, base=str(tiny_sdxl)).exact
    if form == "kohya":
        starts = {name.split("_")[1] for name in load_file(out)}
        assert starts == ({"unet", "te1", "te2"} if parts else {"unet"})
    pipe = pipeline(tiny_sdxl)
    pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
    expected = own(tiny_sdxl, path)
    same(noise_of(pipe), expected)
    same(own(tiny_sdxl, out), expected)  # and read here again
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_merged_folder(tiny_sdxl: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter.safetensors", load_base(tiny_sdxl, "cpu"), "dora", BOTH)
    export(path, tmp_path / "merged", "diffusers", base=str(tiny_sdxl))
    same(noise_of(pipeline(tmp_path / "merged")), own(tiny_sdxl, path))
    same(noise(load_base(tmp_path / "merged", "cpu")), own(tiny_sdxl, path))


@pytest.mark.parametrize("parts", [(), ("text_encoder",)])
def test_merged_checkpoint(parts: tuple[str, ...], tiny_sdxl: Path, tmp_path: Path) -> None:
    single = tiny_checkpoint(tiny_sdxl, tmp_path / "base.safetensors")
    path = write(tmp_path / "adapter.safetensors", load_base(tiny_sdxl, "cpu"), parts=parts)
    export(path, tmp_path / "merged.safetensors", "checkpoint", base=str(single))
    (tmp_path / "merged").symlink_to(tmp_path / "base")  # its configurations
    same(noise(load_base(tmp_path / "merged.safetensors", "cpu")), own(tiny_sdxl, path))


def test_second_text_encoder_of_a_checkpoint_cannot_be_changed(tiny_sdxl: Path, tmp_path: Path) -> None:
    single = tiny_checkpoint(tiny_sdxl, tmp_path / "base.safetensors")
    path = write(tmp_path / "adapter.safetensors", load_base(tiny_sdxl, "cpu"), parts=BOTH)
    with pytest.raises(ConfigError, match="has no text encoder text_encoder_2.* use the format diffusers"):
        export(path, tmp_path / "merged.safetensors", "checkpoint", base=str(single))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pictures_with_an_adapter(precision: str, tiny_sdxl: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter.safetensors", load_base(tiny_sdxl, "cpu"), parts=BOTH)
    settings: dict[str, Any] = {"prompts": ("a sks dog",), "base": str(tiny_sdxl), "n": 1, "steps": 2}
    drawn = [
        generate(GenerateConfig(**settings, adapters=adapters, precision=precision), tmp_path / name, lambda _: None)
        for name, adapters in (("with", (str(path),)), ("without", ()))
    ]
    changed, plain = (Image.open(result.files[0]).tobytes() for result in drawn)
    assert changed != plain


def test_inspect(tiny_sdxl: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter.safetensors", load_base(tiny_sdxl, "cpu"), "dora", BOTH)
    result = inspect(path, str(tiny_sdxl))
    assert {layer.path.split(".")[0] for layer in result.layers} >= set(BOTH)
    assert len(result.layers) == result.summary["layers"]
