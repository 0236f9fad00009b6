"""Adapters of convolutions go wherever those of linear layers go: trained, exported, merged, fused, analysed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dreamtune.adapters import AdapterFile, select_targets
from dreamtune.adapters.formats import read_adapter
from dreamtune.errors import ConfigError
from dreamtune.models import load_base
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.analyze.run import analyze
from dreamtune.pipelines.export.run import export
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.run import fuse
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig
from tests.pipelines.tiny_adapters import adapter_on
from tests.tiny_models import tiny_checkpoint

FEW = r"^down_blocks\.0\.(resnets\.0\.conv1|attentions\.0\.proj_in|downsamplers\.0\.conv)$"


@torch.no_grad()
def noise(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 32, generator=generator)
    return unet(x, 10, context).sample


def adapted(base: Path, path: Path) -> Tensor:
    unet = load_base(base, "cpu").unet
    with read_adapter(path).file.attach(unet, any_base=True):
        return noise(unet)


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Tensor:
    return noise(load_base(tiny, "cpu").unet)


def test_training(settings: Callable[..., TrainConfig], tiny: Path, tmp_path: Path) -> None:
    result = train(settings(targets="all", steps=1, prior=False), tmp_path / "run", on_progress=lambda _: None)
    file = AdapterFile.load(result.adapter)
    unet = load_base(tiny, "cpu").unet
    assert sorted(file.layers) == sorted(select_targets(unet, "all"))
    kernels = {path: record.kernel for path, record in file.layers.items()}
    assert set(kernels.values()) == {None, (1, 1), (3, 3)}
    assert all(file.tensors[f"{path}.up"].count_nonzero() for path in file.layers)
    with file.attach(unet) as attached:
        assert len(attached.adapters) == len(file.layers)


@pytest.mark.parametrize(
    ("form", "method"),
    [
        *(("kohya", method) for method in ("lora", "lokr", "loha", "dora")),
        ("checkpoint", "lora"),
        ("diffusers", "dora"),
    ],
)
def test_exports_do_the_same(form: str, method: str, tiny: Path, plain: Tensor, tmp_path: Path) -> None:
    path = adapter_on(tiny, tmp_path / "a.safetensors", method, targets="all")
    expected = adapted(tiny, path)
    assert (expected - plain).abs().max() > 0.1
    base = tiny_checkpoint(tiny, tmp_path / "base.safetensors") if form == "checkpoint" else tiny
    out = tmp_path / "out" if form == "diffusers" else tmp_path / "base" / "out.safetensors"
    result = export(path, out, form, base=str(base), any_base=True)
    assert len(result.layers) == len(AdapterFile.load(path).layers)
    if form == "kohya":
        found = adapted(tiny, out)
    elif form == "diffusers":
        found = noise(UNet2DConditionModel.from_pretrained(out / "unet"))
    else:
        (out.parent / "out").symlink_to(out.parent)  # its configurations
        found = noise(load_base(out, "cpu").unet)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["sum", "gradient"])
def test_fusing_two_of_the_same_change(method: str, tiny: Path, tmp_path: Path) -> None:
    """Their sum is twice the change, and what is nearest to both on their inputs is the change itself."""
    files = [str(adapter_on(tiny, tmp_path / f"{name}.safetensors", targets=FEW)) for name in "ab"]
    settings = {"steps": 1, "device": "cpu", "base": str(tiny), "any_base": True}
    config = FuseConfig(adapters=tuple(files), method=method, **settings)  # pyright: ignore[reportArgumentType]
    fuse(config, tmp_path / "fused.safetensors", lambda _: None)
    fused, one = (AdapterFile.load(tmp_path / f"{name}.safetensors") for name in ("fused", "a"))
    assert {path: it.kernel for path, it in fused.layers.items()} == {
        path: it.kernel for path, it in one.layers.items()
    }
    factor = 2 if method == "sum" else 1
    for path, adapter in fused.adapters().items():
        change = factor * one.adapters()[path].delta_weight(torch.empty(0))
        torch.testing.assert_close(
            adapter.delta_weight(torch.empty(0)), change, rtol=1e-3, atol=1e-3 * float(change.detach().abs().max())
        )


def test_inputs_that_are_beyond_the_memory_are_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(adapter_on(tiny, tmp_path / f"{name}.safetensors", targets=FEW)) for name in "ab"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    config = FuseConfig(adapters=tuple(files), method="gradient", base=str(tiny), any_base=True, device="cpu")
    with pytest.raises(ConfigError, match="recording the inputs of 3 layers needs 0 GB .* use sum"):
        fuse(config, tmp_path / "fused.safetensors", lambda _: None)
    assert not (tmp_path / "fused.safetensors").exists()


@pytest.mark.slow
def test_analysis(tiny: Path, tmp_path: Path) -> None:
    files = [
        str(adapter_on(tiny, tmp_path / f"{name}.safetensors", targets=FEW, seed=seed, token=name))
        for seed, name in enumerate(("a", "bb"))
    ]
    config = AnalyzeConfig(adapters=tuple(files), base=str(tiny), any_base=True, steps=1, device="cpu")
    report = analyze(config, tmp_path / "report", lambda _: None)
    assert "down_blocks.0.resnets.0.conv1" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert report is not None
