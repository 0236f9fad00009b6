"""A run that was stopped goes on as if nothing had happened, or says why it cannot."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dreamtune.errors import (
    ConfigError,
    Interrupted,
    RunFolderError,
)
from dreamtune.models import Base
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train import TrainResult, load_run_config, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS

Settings = Callable[..., TrainConfig]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


def stopping_at(step: int, stop: Callable[[], object]) -> Callable[[Progress], None]:
    """A listener that calls `stop` when `step` is done."""

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", step):
            stop()

    return listen


def test_prior_is_resumed_picture_by_picture(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dreamtune.models.base.BATCH_PIXELS", 2 * 32 * 32)  # two pictures at once
    config = settings(steps=1, prior_images=6, class_prompt="a {class} here")
    stop = threading.Event()

    def stop_early(progress: Progress) -> None:
        if progress.phase == "prior" and progress.done == 2:
            stop.set()

    with pytest.raises(
        Interrupted, match="stopped after 2 of 6 class pictures, which are kept; go on with: .*--resume"
    ):
        train(config, tmp_path / "run", on_progress=stop_early, stop=stop)
    drawn: list[int] = []
    draw = Base.draw

    def counting(self: Base, prompts: list[str], seeds: range, **settings: Any) -> torch.Tensor:
        drawn.extend(seeds)
        return draw(self, prompts, seeds, **settings)

    monkeypatch.setattr(Base, "draw", counting)
    train(config, tmp_path / "run", resume=True, on_progress=quiet)
    assert drawn == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("how", "interruptions"),
    [("event", (3, 5)), ("SIGINT", (3,)), ("SIGTERM", (3,))],
    ids=("event", "SIGINT", "SIGTERM"),
)
def test_stopped_and_resumed_is_bitwise_uninterrupted(
    trained: TrainResult, settings: Settings, tmp_path: Path, how: str, interruptions: tuple[int, ...]
) -> None:
    """Interrupted between two checkpoints."""
    config, run = settings(sample_every=3), tmp_path / "run"
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for step in interruptions:
        event = threading.Event()
        stop = event.set if how == "event" else lambda: os.kill(os.getpid(), getattr(signal, how))
        with pytest.raises(Interrupted, match=f"after step {step} of {STEPS}.*dreamtune train --resume") as caught:
            train(config, run, resume=run.exists(), on_progress=stopping_at(step, stop), stop=event)
        assert caught.value.exit_code == 130
        assert (run / "checkpoints" / f"step-{step:06d}").is_dir()
        assert not (run / "adapter.safetensors").exists(), "half an adapter must not look like a whole one"
    assert {number: signal.getsignal(number) for number in before} == before
    result = train(config, run, resume=True, on_progress=quiet)
    assert result.steps_now == STEPS - interruptions[-1]
    assert result.adapter.read_bytes() == trained.adapter.read_bytes()
    samples = sorted((trained.run / "samples").iterdir())
    assert [sample.read_bytes() for sample in sorted((run / "samples").iterdir())] == [
        sample.read_bytes() for sample in samples
    ]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


def test_finished_run_can_be_resumed_and_stays_as_it_is(
    trained: TrainResult, settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    result = train(load_run_config(tmp_path / "run"), tmp_path / "run", resume=True, on_progress=quiet)
    assert result.steps_now == 0
    assert result.adapter.read_bytes() == trained.adapter.read_bytes()


def test_resume_needs_the_same_settings_and_pictures(
    trained: TrainResult, settings: Settings, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    config = load_run_config(run)
    with pytest.raises(ConfigError, match=r"with other settings \(lr was 0\.001, now 0\.5\)"):
        train(config.changed(lr=0.5), run, resume=True, on_progress=quiet)
    pictures = tmp_path / "photos"
    shutil.copytree(photos, pictures)
    recorded = yaml.safe_load((run / "config.yaml").read_text()) | {"images": str(pictures)}
    (run / "config.yaml").write_text(yaml.safe_dump(recorded))
    (pictures / "0.png").unlink()
    with pytest.raises(RunFolderError, match="was trained with other pictures: put the former pictures back"):
        train(load_run_config(run), run, resume=True, on_progress=quiet)


@pytest.mark.parametrize("lost", ["damaged", "removed"])
def test_a_run_whose_checkpoints_are_lost_is_not_begun_anew(trained: TrainResult, tmp_path: Path, lost: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    if lost == "removed":
        shutil.rmtree(run / "checkpoints")
    else:
        (run / "adapter.safetensors").unlink()
        (run / "report.json").unlink()
        for file in (run / "checkpoints").glob("*/*.safetensors"):
            os.truncate(file, 100)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match="no checkpoint in .* is whole.*: put one back, or start a new run"):
        train(load_run_config(run), run, resume=True, on_progress=quiet)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
