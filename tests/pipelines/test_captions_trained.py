"""Several captions, none at times, some timesteps: from the settings to the adapter, and resumed bit for bit."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import Interrupted
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.plan import plan
from dreamtune.pipelines.train.run import load_run_config, train
from dreamtune.training.config import TrainConfig

Settings = Callable[..., TrainConfig]
VARIED: dict[str, Any] = {
    "prompts": ("a photo of {token} {class}", "{token} {class}, a photo", "a {class} called {token}"),
    "caption_dropout": 0.3,
    "timestep_min": 100,
    "timestep_max": 900,
    "debiased": True,
    "prior": False,
    "steps": 4,
}


def quiet(progress: Progress) -> None:
    """Show nothing."""


@pytest.fixture(scope="module")
def images(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, one of them with captions of its own."""
    folder = tmp_path_factory.mktemp("captioned") / "dog"
    shutil.copytree(photos, folder)
    first = min(path for path in folder.iterdir() if path.suffix == ".png")
    first.with_suffix(".txt").write_text("a sks dog on grass\na sks dog, asleep\n")
    return folder


@pytest.fixture(scope="module")
def whole(settings: Settings, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of an uninterrupted run."""
    return train(settings(images=images, **VARIED), tmp_path_factory.mktemp("whole") / "run", on_progress=quiet).adapter


def test_stopped_and_resumed_is_bitwise_uninterrupted(
    settings: Settings, images: Path, whole: Path, tmp_path: Path
) -> None:
    config = settings(images=images, **VARIED)
    stop = threading.Event()

    def stop_early(progress: Progress) -> None:
        if progress.phase == "train" and progress.done == 3:
            stop.set()

    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts", on_progress=stop_early, stop=stop)
    parts = train(load_run_config(tmp_path / "parts"), tmp_path / "parts", resume=True, on_progress=quiet)
    assert (parts.steps_now, parts.adapter.read_bytes()) == (1, whole.read_bytes())
    told = AdapterFile.load(whole).training
    assert {name: told[name] for name in VARIED} == VARIED | {"prompts": list(VARIED["prompts"])}


@pytest.mark.parametrize("left", ["prompts", "caption_dropout", "timestep_min", "debiased"])
def test_each_of_them_changes_the_adapter(
    settings: Settings, images: Path, whole: Path, tmp_path: Path, left: str
) -> None:
    config = settings(images=images, **{name: value for name, value in VARIED.items() if name != left})
    without = load_file(train(config, tmp_path / "run", on_progress=quiet).adapter)
    assert any((tensor != without[name]).any() for name, tensor in load_file(whole).items())


def test_a_text_encoder_alone_meets_the_empty_prompt(settings: Settings, tiny_sdxl: Path, tmp_path: Path) -> None:
    """SDXL takes zeros for it, on which no text encoder has an influence: such a step changes nothing and goes on."""
    config = settings(base=str(tiny_sdxl), text_encoder=True, targets="none", prior=False, steps=3, batch_size=1)
    adapter = train(config.changed(caption_dropout=0.9999, weight_decay=0), tmp_path / "run", on_progress=quiet).adapter
    assert all(not tensor.any() for name, tensor in load_file(adapter).items() if name.endswith(".up"))


def test_a_dry_run_tells_of_them(
    settings: Settings, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    assert plan(settings(images=images, **VARIED), tmp_path / "run", on_progress=quiet).captions == 5
    arguments = ["train", str(images), "--class", "dog", "--base", str(tiny), "--no-prior", "--dry-run"]
    changes = ["caption_dropout=0.3", "debiased=true", "timestep_min=100", "batch_size=1", "device=cpu"]
    assert main([*arguments, *(part for change in changes for part in ("--set", change))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "captions    3, one at random each time an image is seen; dropped 30% of the time" in lines
    assert "loss        debiased estimation, timesteps 100 to the last" in lines
