"""What an adapter file holds, and what other files are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import AdapterFileError
from dreamtune.pipelines.inspect import inspect
from dreamtune.pipelines.train import TrainResult


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


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("lora_unet_mid_block.lora_up.weight", "kohya"),
        ("base_model.model.mid_block.lora_A.weight", "PEFT"),
        ("lora_unet_mid_block.hada_w1_a", "LyCORIS"),
    ],
)
def test_files_of_other_tools_are_named(tmp_path: Path, name: str, tool: str) -> None:
    save_file({name: torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterFileError, match=rf"is a file of another tool \({tool}\)"):
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
