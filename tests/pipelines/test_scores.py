"""Scores while training: the curve, the best step, the early end, and that none of it touches the training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError, GenerationError, RunFolderError
from dreamtune.evaluation import Evaluation, Measurement, Score
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import TrainResult, load_run_config, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS, Encoders

Settings = Callable[..., TrainConfig]
Tensors = dict[str, torch.Tensor]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@pytest.fixture
def scored(settings: Settings, encoders: Encoders) -> Settings:
    """Settings of a training that is scored at steps 2, 4 and 6."""

    def make(**changes: Any) -> TrainConfig:
        return settings(
            **{"score_every": 2, "dino": encoders.dino, "clip": encoders.clip, "sampling_steps": 2} | changes
        )

    return make


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace what the judge makes of the pictures of each step by a list of subject fidelities."""

    def write(*subjects: float) -> None:
        monkeypatch.setattr("dreamtune.pipelines.train.scores.PROMPTS", 1)

        def of(step: int, measured: Measurement) -> Score:
            return Score(step, subjects[(step - 1) // 2], prompt=0.9, prompt_base=0.9, leak=0.1, drift=0.1)

        monkeypatch.setattr(Score, "of", of)

    return write


def curve(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def tensors(path: Path) -> Tensors:
    return dict(AdapterFile.load(path).tensors)


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_scores_are_kept_and_do_not_touch_the_training(scored: Settings, settings: Settings, tmp_path: Path) -> None:
    told, fast = list[Progress](), {"lr": 1.0, "method_options": {"dropout": 0.2}}
    plain = train(settings(sampling_steps=2, **fast), tmp_path / "plain", on_progress=quiet)
    result = train(scored(**fast), tmp_path / "run", on_progress=told.append)
    assert result.adapter.read_bytes() == plain.adapter.read_bytes(), "bit for bit, the description included"
    run = result.run
    assert [line["step"] for line in curve(run)] == [2, 4, 6]
    assert all(set(line) == {*Score.__dataclass_fields__, "acceptable"} for line in curve(run))
    pictures = {path.read_bytes() for path in (run / "samples").iterdir()}
    assert len(pictures) == 3, "pictures of the weights of their step"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"score-00000{n}.png" for n in (2, 4, 6)]
    assert run / "curve.png" in result.files
    lines = [p.message for p in told if p.message.startswith("step ")]
    assert len(lines) == 3
    assert "subject" in lines[0] and "leak" in lines[0]


@pytest.mark.parametrize("ema", [0.0, 0.9], ids=("weights", "averages"))
def test_the_best_step_becomes_the_adapter(script: Any, scored: Settings, tmp_path: Path, ema: float) -> None:
    script(0.2, 0.8, 0.5)
    config = scored(keep="best", keep_checkpoints=9, ema_decay=ema)
    result = train(config, tmp_path / "run", on_progress=quiet)
    run = result.run
    assert (result.steps, result.kept_step, result.best_step) == (STEPS, 4, 4)
    assert same(tensors(result.adapter), tensors(run / "checkpoints" / "step-000004" / "adapter.safetensors"))
    assert not same(tensors(result.adapter), tensors(run / "checkpoints" / "step-000006" / "adapter.safetensors"))
    assert AdapterFile.load(result.adapter).training["kept_step"] == 4
    report = json.loads((run / "report.json").read_text())
    assert (report["kept_step"], report["best_step"], report["steps"]) == (4, 4, STEPS)


def test_the_last_step_is_kept_unless_asked_and_the_best_is_there_too(
    script: Any, scored: Settings, trained: TrainResult, tmp_path: Path
) -> None:
    script(0.2, 0.8, 0.5)
    result = train(scored(), tmp_path / "run", on_progress=quiet)
    assert (result.kept_step, result.best_step) == (STEPS, 4)
    assert result.adapter.read_bytes() == trained.adapter.read_bytes()
    assert AdapterFile.load(result.run / "best.safetensors").training["kept_step"] == 4


def test_without_an_acceptable_step_the_last_is_kept_and_said(script: Any, scored: Settings, tmp_path: Path) -> None:
    script(float("nan"), float("nan"), float("nan"))
    told = list[Progress]()
    result = train(scored(keep="best", early_stop=1), tmp_path / "run", on_progress=told.append)
    assert (result.steps, result.kept_step, result.best_step) == (STEPS, STEPS, None)
    assert any("no step was acceptable" in p.message for p in told)
    assert curve(result.run)[0]["subject"] is None


def test_training_ends_when_nothing_better_comes(script: Any, scored: Settings, tmp_path: Path) -> None:
    script(0.8, 0.5, 0.9)
    config = scored(keep="best", early_stop=1, checkpoint_every=0)
    result = train(config, tmp_path / "run", on_progress=quiet)
    assert (result.steps, result.steps_now, result.kept_step) == (4, 4, 2)
    assert [path.name for path in (result.run / "checkpoints").iterdir()] == ["step-000004"]
    before = result.adapter.read_bytes()
    again = train(config, tmp_path / "run", resume=True, on_progress=quiet)
    assert (again.steps, again.steps_now, again.kept_step) == (4, 0, 2), "enough is enough after a resume too"
    assert again.adapter.read_bytes() == before


@pytest.mark.parametrize(
    "killed_at",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 5],
    ids=lambda step: f"step {step}",
)
def test_a_kill_loses_neither_the_best_nor_the_choice(
    script: Any, scored: Settings, tmp_path: Path, killed_at: int
) -> None:
    """Checkpoints at 3 and 6, scores at 2, 4 and 6: the best of step 4 is newer than the checkpoint of step 3."""
    script(0.5, 0.8, 0.4)
    config = scored(keep="best", checkpoint_every=3)
    whole = train(config, tmp_path / "whole", on_progress=quiet)

    def kill(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", killed_at):
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_progress=kill)
    if killed_at == 5:
        assert same(tensors(run / "best.safetensors"), tensors(whole.adapter)), "stored when it became the best"
        # What another machine would make of steps 4 to 6: the best so far must be that of the checkpoint.
        script(0.5, 0.3, 0.2)
        other = tmp_path / "other"
        with pytest.raises(KeyboardInterrupt):
            script(0.5, 0.8, 0.4)
            train(config, other, on_progress=kill)
        script(0.5, 0.3, 0.2)
        result = train(config, other, resume=True, on_progress=quiet)
        assert (result.kept_step, AdapterFile.load(result.adapter).training["kept_step"]) == (2, 2)
        script(0.5, 0.8, 0.4)
    result = train(config, run, resume=True, on_progress=quiet)
    assert result.adapter.read_bytes() == whole.adapter.read_bytes()
    assert (run / "curve.jsonl").read_bytes() == (whole.run / "curve.jsonl").read_bytes()
    assert (run / "best.safetensors").read_bytes() == (whole.run / "best.safetensors").read_bytes()


def test_a_longer_run_keeps_the_score_of_its_former_end(script: Any, scored: Settings, tmp_path: Path) -> None:
    script(0.5, 0.8, 0.4)
    run = tmp_path / "run"
    train(scored(steps=3, prior=False), run, on_progress=quiet)
    result = train(load_run_config(run).changed(steps=4), run, resume=True, on_progress=quiet)
    assert [line["step"] for line in curve(run)] == [2, 3, 4]
    assert (result.steps, result.best_step) == (4, 3)


def test_a_curve_that_is_gone_cannot_be_followed(script: Any, scored: Settings, tmp_path: Path) -> None:
    script(0.5, 0.8, 0.4)
    run = tmp_path / "run"
    train(scored(), run, on_progress=quiet)
    (run / "curve.jsonl").write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n')
    with pytest.raises(RunFolderError, match=r"curve\.jsonl is not what it was at step 6: restore it"):
        train(scored(), run, resume=True, on_progress=quiet)
    (run / "curve.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"curve\.jsonl is not what it was at step 6: restore it"):
        train(scored(), run, resume=True, on_progress=quiet)


def test_pictures_that_fail_leave_a_gap_and_not_a_wreck(
    scored: Settings, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Evaluation, strength: float = 1.0) -> Measurement:
        raise GenerationError("came out as NaN")

    monkeypatch.setattr(Evaluation, "measure", fail)
    told = list[Progress]()
    result = train(scored(), tmp_path / "run", on_progress=told.append)
    assert result.adapter.read_bytes() == trained.adapter.read_bytes()
    assert [(line["subject"], line["acceptable"]) for line in curve(result.run)] == [(None, False)] * 3
    assert any("no score at step 2: came out as NaN" in p.message for p in told)


def test_bad_settings_write_nothing(scored: Settings, photos: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    (single / "0.png").write_bytes((photos / "0.png").read_bytes())
    for changes, message in (
        ({"dino": None, "clip": None}, "no judge for images of the base 'tiny'"),
        ({"clip": "nowhere"}, "cannot load clip = 'nowhere'"),
        ({"images": single}, "score_every needs at least two images"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(scored(**changes), tmp_path / "run", on_progress=quiet)
        assert not (tmp_path / "run").exists()
    for changes, message in (
        ({"keep": "best"}, "need scores: set score_every"),
        ({"early_stop": 2}, "need scores: set score_every"),
        ({"score_every": STEPS + 1}, f"score_every = {STEPS + 1} is more than steps = {STEPS}"),
    ):
        with pytest.raises(ConfigError, match=message):
            scored(**{"score_every": 0} | changes)
