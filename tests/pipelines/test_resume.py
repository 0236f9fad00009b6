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
from safetensors.torch import load_file, save_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import (
    ConfigError,
    Interrupted,
    RunFolderError,
)
from dreamtune.models import Base
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.options import train_config
from dreamtune.pipelines.train.run import TrainResult, load_run_config, train
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

    with pytest.raises(Interrupted, match="stopped after 2 of 6 class images, which are kept; resume with: .*--resume"):
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
    with pytest.raises(ConfigError, match=r"with different settings \(lr was 0\.001, now 0\.5\)"):
        train(config.changed(lr=0.5), run, resume=True, on_progress=quiet)
    pictures = tmp_path / "photos"
    shutil.copytree(photos, pictures)
    recorded = yaml.safe_load((run / "config.yaml").read_text()) | {"images": str(pictures)}
    (run / "config.yaml").write_text(yaml.safe_dump(recorded))
    (pictures / "0.png").unlink()
    with pytest.raises(RunFolderError, match="with different images than .*photos has: restore the original"):
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
    with pytest.raises(RunFolderError, match="no complete checkpoint in .*: restore one, or start a new run"):
        train(load_run_config(run), run, resume=True, on_progress=quiet)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.fixture
def project(settings: Settings, photos: Path, tiny: Path, tmp_path: Path) -> Path:
    """A folder with pictures, a base and a run that was stopped after three steps, moved since."""
    before = tmp_path / "before"
    shutil.copytree(photos, before / "pictures" / "dog")
    shutil.copytree(tiny, before / "models" / tiny.name)
    config = settings(images=before / "pictures" / "dog", base=str(before / "models" / tiny.name), sample_every=3)
    stop = threading.Event()
    with pytest.raises(Interrupted):
        train(config, before / "runs" / "dog", on_progress=stopping_at(3, stop.set), stop=stop)
    return before.rename(tmp_path / "after")


def test_a_run_goes_on_where_its_pictures_and_base_were_moved_with_it(
    project: Path, trained: TrainResult, tiny: Path
) -> None:
    run, told = project / "runs" / "dog", list[Progress]()
    result = train(load_run_config(run), run, resume=True, on_progress=told.append)
    assert result.steps_now == STEPS - 3
    assert result.adapter.read_bytes() == trained.adapter.read_bytes()
    remarks = [progress.message for progress in told if "is gone" in progress.message]
    assert [remark.split(": ")[-1] for remark in remarks] == [
        f"using {project}/pictures/dog for the images",
        f"using {project}/models/{tiny.name} for the weights of the base",
    ]
    assert load_run_config(run).images == project / "pictures" / "dog", "the next time it is known"


def test_a_run_goes_on_with_places_that_are_told(project: Path, trained: TrainResult, tiny: Path, photos: Path) -> None:
    run = project / "runs" / "dog"
    shutil.rmtree(project / "pictures")
    with pytest.raises(
        RunFolderError, match=r"before/pictures/dog with the images of .* is gone.*: dreamtune train IMAGES_DIR --r"
    ):
        train(load_run_config(run), run, resume=True, on_progress=quiet)
    config = train_config({"images": photos, "base": str(tiny)}, [], resume=run)
    assert train(config, run, resume=True, on_progress=quiet).adapter.read_bytes() == trained.adapter.read_bytes()


@pytest.mark.parametrize("what", ["pictures", "base", "VAE", "text encoders"])
def test_other_contents_in_the_place_are_refused(project: Path, what: str) -> None:
    run = project / "runs" / "dog"
    if what == "pictures":
        (project / "pictures" / "dog" / "0.png").unlink()
    else:
        part = {"base": "unet", "VAE": "vae", "text encoders": "text_encoder"}[what]
        (file,) = project.glob(f"models/*/{part}/*.safetensors")
        tensors = load_file(file)
        name = min(name for name, tensor in tensors.items() if tensor.is_floating_point())
        save_file(tensors | {name: tensors[name] + 1}, file, {"format": "pt"})
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    named = "images" if what == "pictures" else what
    with pytest.raises(RunFolderError, match=f"was trained with different {named} than .* has: .*, or start a new run"):
        train(load_run_config(run), run, resume=True, on_progress=quiet)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_longer_run_of_a_constant_rate_is_one_that_was_so_from_the_beginning(
    settings: Settings, tmp_path: Path
) -> None:
    config, told = settings(lr_schedule="constant", warmup_steps=0, prior=False, steps=2), list[Progress]()
    train(config, tmp_path / "run", on_progress=quiet)
    more = train_config({"steps": 4}, [], resume=tmp_path / "run")
    result = train(more, tmp_path / "run", resume=True, on_progress=told.append)
    assert (result.steps, result.steps_now) == (4, 2)
    whole = train(config.changed(steps=4), tmp_path / "whole", on_progress=quiet)
    assert result.adapter.read_bytes() == whole.adapter.read_bytes()
    assert "the same as with that number from the start" in told[0].message
    with pytest.raises(ConfigError, match=r"steps = 3, but .*run has already done 4: set more steps"):
        train(more.changed(steps=3), tmp_path / "run", resume=True, on_progress=quiet)


def test_a_longer_run_of_a_falling_rate_takes_the_course_of_its_new_length(settings: Settings, tmp_path: Path) -> None:
    """It is not the run that was so long from the beginning, and says so; stopped again, it goes on exactly."""
    config, run, told = settings(lr_schedule="linear", warmup_steps=0, prior=False, steps=2), tmp_path / "run", []
    train(config, run, on_progress=quiet)
    shutil.copytree(run, tmp_path / "other")
    more = load_run_config(run).changed(steps=4)
    whole = train(more, run, resume=True, on_progress=told.append)
    assert "linear): step 2 had 0.0005, step 3 has 0.0005" in told[0].message
    rates = [json.loads(line)["lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])
    assert AdapterFile.load(whole.adapter).training["extended_after"] == [2]

    stop, other = threading.Event(), tmp_path / "other"
    with pytest.raises(Interrupted):
        train(more, other, resume=True, on_progress=stopping_at(3, stop.set), stop=stop)
    assert not (other / "report.json").exists(), "it is not finished any more"
    again = train(load_run_config(other), other, resume=True, on_progress=quiet)
    assert again.adapter.read_bytes() == whole.adapter.read_bytes()
