"""`dreamtune fuse --explain`: the analyzer's figures at the weights of the fusion, and what they speak for."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dreamtune.adapters import AdapterFile
from dreamtune.evaluation.pocket_judge import digest
from dreamtune.models import Base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.analyze.run import analyze
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.fuse import explain as fuse_explain
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.explain import explain

Make = Callable[..., Path]


@pytest.fixture
def calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a calibration on the base of these tests is read; there is none else of that base."""
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
    (pair,) = told(a, bb, steps=AnalyzeConfig.model_fields["steps"].default).pairs
    assert pair.crosstalk == pytest.approx((float(expected[0, 1]), float(expected[1, 0])), rel=1e-3)
    (half,) = told(a, f"{bb}:0.5", f"{make('ccc')}:0", steps=6).pairs
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
    losses: tuple[float, float], method: str, make: Make, base: Base, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"to": 1e-9, "median": losses[0]}, {"to": 1e9, "median": losses[1]}]
    figures = {"spearman": 0.7, "low": 0.5, "high": 0.8}
    measured = {"base": digest(base), "pairs": 45, "correlation": {"crosstalk": figures}, "loss_by_crosstalk": rows}
    calibration.write_text(json.dumps(measured))
    found = told(make("a"), make("bb"))
    assert (found.method, found.pairs[0].forecast) == (method, (losses[1], losses[1]))
    assert found.calibration == {**figures, "pairs": 45, "same_base": True}
    calibration.write_text(json.dumps(measured | {"base": "another"}))
    assert told(make("a"), make("bb"), steps=1).calibration == {**figures, "pairs": 45, "same_base": False}
    monkeypatch.setattr(fuse_explain, "CALIBRATED", "pocket")
    other = told(make("c"), make("dd"))
    assert (other.method, other.pairs[0].forecast, other.calibration) == ("gradient", (None, None), None)


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, float]]:
    """Prompt, seed, steps and guidance of all that is drawn from here on."""
    found: list[tuple[str, int, int, float]] = []
    draw = Base.draw

    def noted(self: Base, prompts: Any, seeds: Any, **given: Any) -> Any:
        found.extend((p, s, given["steps"], given["guidance"]) for p, s in zip(prompts, seeds, strict=True))
        return draw(self, prompts, seeds, **given)

    monkeypatch.setattr(Base, "draw", noted)
    return found


def test_it_draws_with_the_steps_and_prompts_that_it_is_given(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is then fused with, also by a fusion that reads no prompts."""
    pictures, usual = drawn(monkeypatch), USUAL["pocket"].guidance
    files = [str(make("a")), str(make("bb"))]
    texts, given = tmp_path / "prompts.txt", ["--explain", "--device", "cpu", "--steps", "2", "--seed", "7"]
    texts.write_text("{token} {class} here\nthe a\na one bb\n" + "".join(f"bb {n}\n" for n in range(4)))
    given += ["--prompts", str(texts)]
    assert main(["fuse", *files, *given, "--out", str(tmp_path / "1.safetensors"), "--json"]) == 0
    expected = ["a dog here", "the a", "a one bb", "bb dog here", "a one bb", "bb 0", "bb 1"]
    seeds, scenes = (
        (7, 8, 9, 7, 8, 9, 10),
        [USUAL["pocket"].prompt("", "dog"), "a dog on the left and a dog on the right"],
    )
    assert pictures == [
        *((prompt, seed, 2, usual) for prompt, seed in zip(expected, seeds, strict=True)),
        *((scene, seed, 2, usual) for scene in scenes for seed in range(7, 11)),
    ]
    assert json.loads(capsys.readouterr().out)["explanation"]["prompts"] == expected
    assert main(["fuse", *files, "--prompts", str(texts), "--out", str(tmp_path / "2.safetensors")]) == 2
    assert "sum uses no prompts" in capsys.readouterr().err


def test_it_draws_as_generate_does_if_nothing_else_is_said(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, usual = drawn(monkeypatch), USUAL["pocket"]
    a = make("a")
    both = AdapterFile.load(make("bb"))
    replace(both, others=(("ccc", "cat"),)).save(a.with_name("both.safetensors"))
    told(a, a.with_name("both.safetensors"))
    steps = FuseConfig.model_fields["steps"].default
    assert pictures == [
        (usual.prompt("a", "dog"), 0, steps, usual.guidance),
        (f"{usual.prompt('bb', 'dog')} and a ccc cat", 0, steps, usual.guidance),
    ]


def test_a_strong_adapter_is_named(make: Make) -> None:
    a, bb = make("a"), make("bb")
    found = told(a, f"{bb}:9")
    assert (found.pairs[0].dominant, found.balance) == ("bb", "output")
    assert any("bb would drown out a:" in reason for reason in found.reasons)
