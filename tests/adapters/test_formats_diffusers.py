"""LoRA and DoRA that are written act in diffusers as they do here, and kohya's names say what base they are for.

kohya's sd-scripts is no package and is not asked itself: its names of SDXL's layers are given to diffusers, which has
its own rules for them, and in test_formats_names.py compared with those of a checkpoint.
"""

# pyright: reportArgumentType=false

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.formats import read_adapter, to_diffusers
from dreamtune.adapters.formats import to_kohya as any_to_kohya
from dreamtune.errors import ConfigError
from tests.adapters.foreign import file_of, real_layer, to_kohya
from tests.adapters.nets import config_of, disturb


def pipeline(folder: Path) -> Any:
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").is_dir() else StableDiffusionPipeline
    return kind.from_pretrained(folder)


def file_on(
    pipe: Any, targets: str, parts: tuple[str, ...], ranks: dict[str, int], method: str = "lora", **options: Any
) -> AdapterFile:
    """As in the middle of a training, on the UNet of a pipeline and these text encoders; ranks: for the UNet."""
    config = config_of(method, **options)
    unet = attach(pipe.unet, config, targets, ranks=ranks)
    others = {part: attach(getattr(pipe, part), config, "text", ranks={"q_proj": 1}) for part in parts}
    for one in (unet, *others.values()):
        for _, layer, adapter in one.layers():
            disturb(adapter, layer.base_weight)
    file = AdapterFile.from_attached(unet, base="b", token="sks", class_word="dog", training={}, text_encoders=others)
    for one in (unet, *others.values()):
        one.detach()
    return file


def weights_of(file: AdapterFile, pipe: Any) -> dict[str, Tensor]:
    return {path: w.clone() for path, w in file.weights({part: getattr(pipe, part) for part in file.parts}).items()}


def check_in_diffusers(file: AdapterFile, pipe: Any, path: Path) -> None:
    """diffusers' own loading changes each weight by this file's ΔW, and dreamtune's reading says the same."""
    before, read = weights_of(file, pipe), read_adapter(path)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after, back = weights_of(file, pipe), read.file.adapters()
    assert (back.keys(), read.remarks) == (file.layers.keys(), ())
    for layer, adapter in file.adapters().items():
        change = adapter.delta_weight(before[layer]).detach()
        torch.testing.assert_close(after[layer] - before[layer], change, rtol=1e-4, atol=1e-5, msg=layer)
        torch.testing.assert_close(back[layer].delta_weight(before[layer]).detach(), change, msg=layer)


@pytest.mark.parametrize("ranks", [{}, {"to_out": 1, "to_q": 3, "attn2.to_k": 5}])
@pytest.mark.parametrize("rslora", [False, True])
def test_diffusers_reads_ranks_of_layers(ranks: dict[str, int], rslora: bool, tiny: Path, tmp_path: Path) -> None:
    """It loses the alphas of a UNet's layers that differ from the rest, and says nothing."""
    pipe = pipeline(tiny)
    file = file_on(pipe, "attn", ("text_encoder",), ranks, rslora=rslora)
    tensors, metadata = any_to_kohya(file, torch.float32)
    assert len({float(t) for name, t in tensors.items() if name.endswith(".alpha")}) == 1
    found = {t.shape[0] for name, t in tensors.items() if name.endswith("lora_down.weight")}
    assert found == {2, 1, *ranks.values()}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    check_in_diffusers(file, pipe, tmp_path / "a.safetensors")


def test_equal_alphas_leave_the_factors_as_they_are() -> None:
    file = file_of("lora")
    tensors, _ = to_kohya(file, torch.float32)
    for path in file.layers:
        name = f"lora_unet_{path.replace('.', '_')}"
        assert float(tensors[f"{name}.alpha"]) == file.config.alpha
        torch.testing.assert_close(tensors[f"{name}.lora_up.weight"], file.tensors[f"{path}.up"], rtol=0, atol=0)


OF_EACH_KIND = r"attn1\.to_q|attn2\.to_out|proj_in|ff|emb"
"""Of attention blocks, of the resnets, and of the embeddings of time and size."""


@pytest.mark.parametrize("parts", [(), ("text_encoder", "text_encoder_2")])
def test_diffusers_reads_the_names_of_sdxl(parts: tuple[str, ...], tiny_sdxl: Path, tmp_path: Path) -> None:
    pipe = pipeline(tiny_sdxl)
    file = file_on(pipe, OF_EACH_KIND, parts, {"to_out": 1})
    tensors, metadata = any_to_kohya(file, torch.float32)
    assert not any("_blocks_" in name.split("transformer_blocks")[0].replace("put_blocks", "") for name in tensors)
    starts = {name.split("_")[1] for name in tensors}
    assert starts == ({"unet", "te1", "te2"} if parts else {"unet"})
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    check_in_diffusers(file, pipe, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("text_encoder_2.encoder.layers.0.self_attn.q_proj", "lora_te2_"),
        ("up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_output_blocks_0_1_"),
        ("mid_block.attentions.0.transformer_blocks.1.attn1.to_q", "lora_unet_middle_block_1_"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_down_blocks_0_"),
        ("up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_up_blocks_3_"),
    ],
)
def test_layers_tell_the_base(path: str, start: str) -> None:
    tensors, _ = any_to_kohya(real_layer(file_of("lora"), path), torch.float32)
    assert all(name.startswith(start) for name in tensors)


@pytest.mark.parametrize(("width", "start"), [(768, "mid_block"), (1024, "mid_block"), (2048, "middle_block")])
def test_keys_of_the_text_tell_the_base(width: int, start: str) -> None:
    net = nn.Module()
    net.attn2 = nn.Module()
    net.attn2.to_v = nn.Linear(width, 2)
    unet = nn.Module()
    unet.mid_block = nn.Module()
    unet.mid_block.attentions = nn.ModuleList([nn.Module()])
    unet.mid_block.attentions[0].transformer_blocks = nn.ModuleList([net])
    with attach(unet, config_of("lora"), "to_v") as attached:
        file = AdapterFile.from_attached(attached, base="b", token="", class_word="", training={})
    assert all(name.startswith(f"lora_unet_{start}_") for name in any_to_kohya(file, torch.float32)[0])


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_middle_block_1_"),
        ("text_encoder.encoder.layers.0.self_attn.q_proj", "lora_te1_"),
    ],
)
def test_layers_that_do_not_tell_the_base(path: str, first: str) -> None:
    file = real_layer(file_of("lora"), path)
    with pytest.raises(ConfigError, match="layers do not show whether they are SDXL's.*set the base"):
        any_to_kohya(file, torch.float32)
    assert all(name.startswith(first) for name in any_to_kohya(file, torch.float32, sdxl=True)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusers_reads_mixed_precisions(dtype: torch.dtype, tiny: Path, tmp_path: Path) -> None:
    """Into a pipeline in fp32, and into one in half precision, to which it rounds the magnitudes itself."""
    pipe = pipeline(tiny)
    file = file_on(pipe, "attn", ("text_encoder",), {}, method="dora")
    pipe.to(dtype=dtype)
    tensors, metadata = to_diffusers(file, torch.bfloat16)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    before = weights_of(file, pipe)
    pipe.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for layer, weight in weights_of(file, pipe).items():
        change = file.adapters()[layer].delta_weight(before[layer].float()).detach()
        assert (weight.float() - before[layer].float() - change).norm() < 2e-2 * change.norm(), layer
