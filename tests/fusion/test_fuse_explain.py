"""`dreamtune fuse --explain`: the analyzer's figures at the weights of the fusion, and what they speak for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreamtune.pipelines import fuse_explain
from dreamtune.pipelines.analysis_config import AnalyzeConfig
from dreamtune.pipelines.analyze import analyze
from dreamtune.pipelines.cli import main
from dreamtune.pipelines.fuse_config import FuseConfig
from dreamtune.pipelines.fuse_explain import explain

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def not_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a calibration would be, of the base of these tests."""
    monkeypatch.setattr(fuse_explain, "CALIBRATION", tmp_path / "calibration.json")
    monkeypatch.setattr(fuse_explain, "CALIBRATED", "tiny")
    return tmp_path / "calibration.json"


def told(*files: Any, **options: Any) -> fuse_explain.Explanation:
    return explain(FuseConfig(adapters=tuple(map(str, files)), device="cpu", **options), lambda _: None)


def test_figures_are_those_of_the_analyzer(make: Make) -> None:
    a, bb = make("a"), make("bb", "dora")
    report = analyze(AnalyzeConfig(adapters=(str(a), str(bb)), device="cpu"), None, lambda _: None)
    assert report.interference is not None
    expected = report.interference.total()
    (pair,) = told(a, bb).pairs
    assert pair.crosstalk == pytest.approx((float(expected[0, 1]), float(expected[1, 0])), rel=1e-3)
    (half,) = told(a, f"{bb}:0.5", f"{make('ccc')}:0").pairs
    assert half.crosstalk[0] == pytest.approx(0.25 * float(expected[0, 1]), rel=1e-3)


def test_command_tells_before_it_fuses(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["fuse", str(make("a")), str(make("bb")), "--explain", "--device", "cpu"]
    assert main([*given, "--out", str(tmp_path / "1.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "not calibrated" in printed and "recommended --method gradient" in printed
    assert printed.index("recommended") < printed.index("(sum of ")
    assert main([*given, "--out", str(tmp_path / "2.safetensors"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["explanation"]["method"]) == ("sum", "gradient")
    assert main([*given, "--out", str(tmp_path / "1.safetensors")]) == 2
    assert not capsys.readouterr().out


@pytest.mark.parametrize("losses, method", [((0.0, 0.02), "sum"), ((0.0, 0.6), "gradient")])
def test_what_was_measured_decides_on_the_same_base(
    losses: tuple[float, float], method: str, make: Make, not_calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"to": 1e-9, "median": losses[0]}, {"to": 1e9, "median": losses[1]}]
    figures = {"spearman": 0.7, "low": 0.5, "high": 0.8}
    not_calibrated.write_text(
        json.dumps({"pairs": 45, "correlation": {"crosstalk": figures}, "loss_by_crosstalk": rows})
    )
    found = told(make("a"), make("bb"))
    assert (found.method, found.pairs[0].forecast) == (method, (losses[1], losses[1]))
    assert found.calibration == {**figures, "pairs": 45}
    monkeypatch.setattr(fuse_explain, "CALIBRATED", "pocket")
    other = told(make("c"), make("dd"))
    assert (other.method, other.pairs[0].forecast, other.calibration) == ("gradient", (None, None), None)


def test_a_strong_adapter_is_named(make: Make) -> None:
    a, bb = make("a"), make("bb")
    found = told(a, f"{bb}:9")
    assert (found.pairs[0].dominant, found.balance) == ("bb", "output")
    assert any("bb would drown a:" in reason for reason in found.reasons)
