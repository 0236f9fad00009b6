"""The benchmark of a training step measures both toolkits at the same work, and keeps results apart."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import speed


def test_both_compute_the_same_and_results_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = speed.SMALL | {"sample_size": 8, "block_out_channels": (32, 32, 32)}
    monkeypatch.setattr(speed, "UNETS", {"small": small, "launch": small})
    monkeypatch.setattr(speed, "pick_device", lambda: "cpu")
    monkeypatch.setattr("sys.argv", ["speed", "--repeats", "1", "--out", str(tmp_path)])
    speed.main()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["speed-cpu-launch-bf16.json", "speed-cpu-small-fp32.json"]
    report = json.loads((tmp_path / "speed-cpu-small-fp32.json").read_text())
    base, ours, theirs = report["rows"]
    assert report["largest_difference"] < 1e-5
    assert ours["parameters"] == theirs["parameters"] > base["parameters"] == 0
    assert base["saved_bytes"] < ours["saved_bytes"] <= theirs["saved_bytes"]
    assert {"device", "versions", "commit"} <= report["about"].keys()


def test_what_is_asked_for_alone_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str]] = []
    monkeypatch.setattr(speed, "run", lambda folder, repeats, device, *what: measured.append(what))
    for given, expected in (
        (["--unet", "sdxl", "--precision", "bf16"], ("sdxl", "bf16")),
        (["--unet", "launch"], ("launch", "fp32")),
        (["--precision", "bf16"], (speed.USUAL[speed.pick_device()][0][0], "bf16")),
    ):
        monkeypatch.setattr("sys.argv", ["speed", "--out", str(tmp_path), *given])
        speed.main()
        assert measured.pop() == expected and not measured


def test_a_gpu_has_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, short in (("NVIDIA H200", "h200"), ("NVIDIA GeForce RTX 4090", "rtx4090")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert speed.own_file(tmp_path, "cuda", "sdxl", "bf16").name == f"speed-{short}-sdxl-bf16.json"
