"""Faults are found and come with a remedy; nothing is written and the network is left alone."""

import shutil
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dreamtune import pocket
from dreamtune.data.cache import Cache
from dreamtune.errors import Interrupted
from dreamtune.models import hub
from dreamtune.pipelines.doctor import EXTRAS, Check, doctor
from dreamtune.pipelines.output import human
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.run_folder import RunFolder
from dreamtune.pipelines.train.run import load_run_config, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS


def checks(online: bool = False) -> dict[str, Check]:
    return {check.name: check for check in doctor(online).checks}


@pytest.fixture(autouse=True)
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for the embedded base, so that its absence from a checkout plays no part."""
    base = tmp_path / "weights" / "base"
    base.mkdir(parents=True)
    (base / "model_index.json").write_text("{}")
    monkeypatch.setattr(pocket, "WEIGHTS", base.parent)
    return base


def test_healthy(cache: Path) -> None:
    result = doctor()
    assert result.healthy
    found = {check.name: check.value for check in result.checks}
    assert found["torch"] == metadata.version("torch")
    assert str(cache) in found["cache"]
    assert found.keys() >= {"dreamtune", "python", "diffusers", "device", "disk", "pocket"}
    assert "hub" not in found, "the network is asked only on demand"


def test_faults_come_with_a_remedy(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.rmtree(weights)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5 << 20}))
    version = metadata.version

    def without_peft(name: str) -> Any:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_peft)
    assert not doctor().healthy
    found = checks()
    states = {name: found[name].state for name in ("peft", "pocket", "cache", "disk", "torch")}
    assert states == {"peft": "fault", "pocket": "fault", "cache": "fault", "disk": "warning", "torch": "ok"}
    assert all(check.remedy for check in found.values() if check.state != "ok")
    assert "pip install peft" in found["peft"].remedy
    assert "DREAMTUNE_CACHE" in found["cache"].remedy
    assert "5.0 MiB free" in found["disk"].value


def test_hub_is_asked_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks(online=True)["hub"].state == "warning", "it is switched off in the tests"
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: None)
    assert checks(online=True)["hub"] == Check("hub", "reachable")


def test_optional_packages_are_named_with_their_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    for name, purpose in EXTRAS.items():
        check = checks()[name]
        assert check.state == "ok", "nothing is wrong without it"
        assert purpose in check.value
        assert f"pip install {name}" in check.value


def test_cache_by_kind_and_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "3GB")
    assert checks()["cache"].value == f"{tmp_path / 'cache'}: empty; limit 3.0 GiB"
    Cache("latents").put("ab" * 32, {"x": torch.zeros(1000)})
    assert "latents 4.0 KiB; limit" in checks()["cache"].value
    monkeypatch.setenv("DREAMTUNE_CACHE_LIMIT", "much")
    assert (checks()["cache"].state, checks()["cache"].remedy.split(":")[0]) == (
        "fault",
        "DREAMTUNE_CACHE_LIMIT = 'much' is not a size",
    )


def test_damaged_weights_of_the_embedded_base(weights: Path) -> None:
    (weights / "unet").mkdir()
    save_file({"x": torch.zeros(100)}, weights / "unet" / "model.safetensors")
    assert checks()["pocket"].state == "ok"
    whole = (weights / "unet" / "model.safetensors").read_bytes()
    (weights / "unet" / "model.safetensors").write_bytes(whole[:-10])
    assert checks()["pocket"].state == "fault"
    assert checks()["pocket"].value == "damaged: unet/model.safetensors"


def test_unfinished_runs_and_how_to_go_on(
    settings: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stop = threading.Event()

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", 2):
            stop.set()

    with pytest.raises(Interrupted):
        train(settings(prior=False), "runs/rex", on_progress=listen, stop=stop)
    before = sorted(tmp_path.rglob("*"))
    check = checks()["run"]
    assert check.value == f"runs/rex is unfinished; latest checkpoint: 2 of {STEPS} steps"
    assert (check.state, check.remedy) == ("warning", "dreamtune train --resume runs/rex")
    with RunFolder("runs/rex").exclusive():
        assert checks()["run"].value.startswith(f"runs/rex is training; latest checkpoint: 2 of {STEPS} steps")
        assert checks()["run"].state == "ok"
    assert checks()["run"].state == "warning", "a lock that nobody holds is no training"
    assert sorted(tmp_path.rglob("*")) == before
    train(load_run_config("runs/rex"), "runs/rex", resume=True, on_progress=listen)
    assert "run" not in checks()
    (tmp_path / "runs" / "rex" / "report.json").unlink()
    (tmp_path / "runs" / "rex" / "config.yaml").write_text("stepz: 3\n")
    assert "unknown setting 'stepz'" in checks()["run"].value


def test_human_sizes() -> None:
    texts = [human(size) for size in (0, 1023, 1024, 1536 << 20, 5 << 40, 3 << 50)]
    assert texts == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "5.0 TiB", "3072.0 TiB"]
