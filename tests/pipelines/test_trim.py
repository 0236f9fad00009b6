"""A trimmed adapter keeps what it says, in less."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import ConfigError
from dreamtune.models import load_base
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.export.trim import trim
from tests.tiny_models import tiny_folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A LoRA of rank 4 whose singular values are 8, 4, 1 and 0.1 in one layer and all 1 in the other."""
    model = nn.ModuleDict({"first": nn.Linear(12, 10), "second": nn.Linear(12, 10)})
    with attach(model, LoRAConfig(rank=4, alpha=4), "first|second") as attached, torch.no_grad():
        for path, values in (("first", [8.0, 4.0, 1.0, 0.1]), ("second", [1.0] * 4)):
            adapter = attached.adapters[path]
            adapter.up.copy_(torch.eye(10)[:, :4] * torch.tensor(values))  # pyright: ignore[reportCallIssue, reportArgumentType, reportAttributeAccessIssue]
            adapter.down.copy_(torch.eye(12)[:4])  # pyright: ignore[reportCallIssue, reportArgumentType, reportAttributeAccessIssue]
        made = AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})
    made.save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_ranks_are_the_least_that_keep_the_share(file: Path, tmp_path: Path) -> None:
    result = trim(file, tmp_path / "b.safetensors", energy=0.95)
    assert result.ranks == {"first": 2, "second": 4}  # 80 of 81.01, and all four
    assert result.least_energy == pytest.approx(80 / 81.01)
    assert result.energy == pytest.approx(84 / 85.01)
    assert result.bytes_after < result.bytes_before
    before, after = AdapterFile.load(file), AdapterFile.load(tmp_path / "b.safetensors")
    assert (after.token, after.class_word, after.base) == (before.token, before.class_word, before.base)
    blank = torch.empty(10, 12)
    kept = after.adapters()["first"].delta_weight(blank)
    assert torch.allclose(kept.diagonal()[:4], torch.tensor([8.0, 4, 0, 0]), atol=1e-5)
    assert torch.allclose(
        after.adapters()["second"].delta_weight(blank), before.adapters()["second"].delta_weight(blank), atol=1e-5
    )


def test_all_of_it_is_the_same_change(file: Path, tmp_path: Path) -> None:
    result = trim(file, tmp_path / "b.safetensors", energy=1)
    assert (result.energy, result.least_energy) == (1, 1)


@pytest.mark.parametrize("energy", [0.0, 1.5, float("nan")])
def test_shares_that_are_none(file: Path, tmp_path: Path, energy: float) -> None:
    with pytest.raises(ConfigError, match="energy"):
        trim(file, tmp_path / "b.safetensors", energy=energy)


@pytest.mark.parametrize("strength", ["0.5", "1,up.1=0.5"])
def test_a_strength_is_not_silently_left_out(file: Path, tmp_path: Path, strength: str) -> None:
    with pytest.raises(ConfigError, match="a strength cannot be trimmed"):
        trim(f"{file}:{strength}", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_methods_whose_change_depends_on_the_weights_need_the_base(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_base(tiny, "cpu")
    with attach(base.unet, METHODS["dora"].config_class(rank=2, alpha=2.0)) as attached, torch.no_grad():
        for parameter in attached.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        made = AdapterFile.from_attached(attached, base=str(tiny), token="sks", class_word="dog", training={})
    made.save(tmp_path / "d.safetensors")
    arguments = ["trim", str(tmp_path / "d.safetensors"), "--out", str(tmp_path / "t.safetensors")]
    assert main(arguments) == 2
    assert "use --base" in capsys.readouterr().err
    assert not (tmp_path / "t.safetensors").exists()
    foreign = tiny_folder(tmp_path / "wider", width=48)
    assert main([*arguments, "--base", str(foreign)]) == 2
    assert str(tmp_path / "d.safetensors") in capsys.readouterr().err, "says which file does not fit"
    assert main([*arguments, "--base", str(tiny), "--energy", "0.9", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0.9 <= told["least_energy"] <= told["energy"] <= 1
    assert AdapterFile.load(tmp_path / "t.safetensors").method == "lora"
    assert main([*arguments, "--base", str(tiny)]) == 2
    assert "already exists" in capsys.readouterr().err
