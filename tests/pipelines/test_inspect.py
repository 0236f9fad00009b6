"""What an adapter file holds, and what other files are."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from dreamtune.adapters import METHODS, AdapterFile, MethodConfig, attach
from dreamtune.adapters.fingerprint import Fingerprint
from dreamtune.errors import AdapterFileError, IncompatibleModelError
from dreamtune.pipelines.cli.inspect import show
from dreamtune.pipelines.export.inspect import inspect
from dreamtune.pipelines.train.run import TrainResult


def test_layers_by_energy(trained: TrainResult) -> None:
    result = inspect(trained.adapter)
    assert result.summary == AdapterFile.load(trained.adapter).summary()
    assert len(result.layers) == result.summary["layers"]
    assert sum(layer.energy for layer in result.layers) == pytest.approx(1)
    assert [layer.norm for layer in result.layers] == sorted((layer.norm for layer in result.layers), reverse=True)
    assert all(1 <= layer.rank_used <= 2 for layer in result.layers)
    plain = result.to_dict()
    assert (plain["method"], plain["base"], plain["file_bytes"]) == ("lora", "tiny", trained.adapter.stat().st_size)
    assert plain["changes"][0].keys() == {"path", "shape", "norm", "energy", "rank_used"}


def test_untrained_adapter_has_no_energy(trained: TrainResult, tmp_path: Path) -> None:
    file = AdapterFile.load(trained.adapter)
    tensors = {name: tensor * (not name.endswith("up")) for name, tensor in file.tensors.items()}
    replace(file, tensors=tensors).save(tmp_path / "new.safetensors")
    layers = inspect(tmp_path / "new.safetensors").layers
    assert {(layer.energy, layer.norm, layer.rank_used) for layer in layers} == {(0.0, 0.0, 0)}


def test_a_change_beyond_what_numbers_hold_is_an_error_of_the_file(trained: TrainResult, tmp_path: Path) -> None:
    file, path = AdapterFile.load(trained.adapter), tmp_path / "huge.safetensors"
    tensors = {name: torch.full_like(tensor, 1e100, dtype=torch.float64) for name, tensor in file.tensors.items()}
    replace(file, tensors=tensors).save(path)
    with pytest.raises(AdapterFileError, match=rf"^{path}: its change overflows"):
        inspect(path)


def count(method: str, config: MethodConfig, out: int, inner: int) -> int:
    """Trained numbers of one layer, by each paper's formula."""
    r = config.rank
    if method == "lokr":
        (a, b), (c, d) = ((small, size // small) for size in (out, inner) for small in [root_divisor(size)])
        return a * c + (b * r + r * d if r < max(b, d) / 2 else b * d)
    return {
        "lora": r * (out + inner),
        "dora": r * (out + inner) + out,
        "lora-dash": r * (out + inner) + 8,
        "spectral-a": r * (out + inner),
        "spectral-r": r * (r - 1),
        "loha": 2 * r * (out + inner),
        "full": out * inner,
        "orthogonal": r * out,
    }[method]


def root_divisor(size: int) -> int:
    """The largest divisor up to the square root."""
    return next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_those_of_the_papers(method: str, tiny: Path, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny / "unet")
    config = METHODS[method].config_class(rank=2)
    with attach(unet, config) as attached:
        file = AdapterFile.from_attached(attached, base="tiny", token="sks", class_word="dog", training={})
    file.save(tmp_path / "a.safetensors")
    expected = sum(count(method, config, *record.shape) for record in file.layers.values())
    without, with_base = inspect(tmp_path / "a.safetensors"), inspect(tmp_path / "a.safetensors", str(tiny))
    assert without.summary["parameters"] == expected
    assert len(with_base.layers) == len(file.layers)
    assert len(without.layers) == (0 if method == "dora" else len(file.layers))


def test_another_base_is_refused(trained: TrainResult, tiny: Path, tmp_path: Path) -> None:
    file = AdapterFile.load(trained.adapter)
    other = Fingerprint("0" * 16, "0" * 16)
    layers = {path: replace(record, fingerprint=other) for path, record in file.layers.items()}
    replace(file, layers=layers).save(tmp_path / "other.safetensors")
    assert inspect(trained.adapter, str(tiny)).layers
    with pytest.raises(IncompatibleModelError, match="have other weights here"):
        inspect(tmp_path / "other.safetensors", str(tiny))


def test_file_of_another_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.lora_up.weight": torch.ones(32, 1), f"{name}.lora_down.weight": torch.ones(1, 32)}
    save_file(tensors, tmp_path / "x.safetensors")
    result = inspect(tmp_path / "x.safetensors")
    assert (result.tool, result.layers[0].norm) == ("kohya", pytest.approx(32))
    assert "the file has no alpha for 1 layers" in result.to_dict()["remarks"][0]
    show(result)
    printed = capsys.readouterr().out
    assert "base        unknown" in printed
    assert "written by  kohya" in printed
    assert "remark      the file has no alpha for 1 layers" in printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora_unet_mid_block.lora_up.weight", "not a layer of Stable Diffusion|lacks down"),
        ("base_model.model.mid_block.lora_A.weight", "not a layer of Stable Diffusion|dimensions|lacks up"),
        ("lora_unet_mid_block.hada_w1_a", "not a layer of Stable Diffusion|lacks"),
    ],
)
def test_incomplete_files_of_other_tools(tmp_path: Path, name: str, message: str) -> None:
    save_file({name: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterFileError, match=message):
        inspect(tmp_path / "x.safetensors")


def test_what_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_text("no")
    for path, message in (
        ("x.safetensors", "not a safetensors file"),
        ("none", "no adapter file"),
        ("", "is a folder"),
    ):
        with pytest.raises(AdapterFileError, match=message):
            inspect(tmp_path / path)
