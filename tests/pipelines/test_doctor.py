"""Faults are found and come with a remedy; nothing is written and the network is left alone."""

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from dreamtune import pocket
from dreamtune.models import hub
from dreamtune.pipelines.doctor import Check, doctor, human, size_of


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
    assert checks(online=True)["hub"] == Check("hub", "answers")


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x" * 1500)
    assert size_of(tmp_path / "a") == 1500
    assert size_of(tmp_path / "none") == 0
    texts = [human(size) for size in (0, 1023, 1024, 1536 << 20, 5 << 40, 3 << 50)]
    assert texts == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "5.0 TiB", "3072.0 TiB"]
