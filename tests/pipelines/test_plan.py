"""A dry run makes the checks of a training, measures it, tells the truth about it, and leaves nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreamtune.adapters import AdapterFile
from dreamtune.errors import DreamtuneError, RunFolderError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.plan import PlanResult, plan
from dreamtune.pipelines.train.run import TrainResult, train
from dreamtune.training.config import TrainConfig
from tests.pipelines.conftest import STEPS

Settings = Callable[..., TrainConfig]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one and holds all that a program may leave: cache and temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_settings_for_later_steps_do_not_reach_the_probe(
    settings: Settings, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamtune.pipelines.train.preflight.find_judge", lambda *_: None)
    config = settings(prior=False, steps=9, warmup_steps=5, score_every=3, keep="best", early_stop=2)
    assert plan(config, "runs/dog", on_progress=quiet).config.keep == "best"


def test_nothing_is_left_behind(settings: Settings, nowhere: Path) -> None:
    state = torch.get_rng_state()
    plan(settings(sample_every=2), "runs/dog", on_progress=quiet)
    assert list(nowhere.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_it_tells_what_training_then_does(
    settings: Settings, trained: TrainResult, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(settings(sample_every=3), "runs/dog", on_progress=quiet)
    assert (planned.pictures, planned.class_pictures, planned.skipped) == (3, 3, ())
    assert (planned.base, planned.family, planned.device) == ("tiny", "pocket", "cpu")
    assert planned.buckets == ((32, 32, 3),)
    assert (planned.batch, planned.steps_per_epoch, planned.epochs) == (2, 1.5, STEPS * 2 / 3)
    file = AdapterFile.load(trained.adapter)
    assert planned.parameters == sum(tensor.numel() for tensor in file.tensors.values())
    assert planned.layers == len(file.layers)
    assert (planned.scale, planned.config.rank, planned.config.alpha) == (1, 2, 2)
    assert planned.seconds == planned.seconds_per_step * STEPS > 0
    assert planned.memory > 50 << 20, "a process with torch in it"
    written = sum(path.stat().st_size for path in trained.run.rglob("*") if path.is_file())
    assert 0.8 * written < planned.disk < 2 * written


def test_shapes_masks_and_a_prior_without_pictures(settings: Settings, photos: Path, nowhere: Path) -> None:
    pictures = nowhere / "pictures"
    pictures.mkdir()
    for number, size in enumerate([(128, 64), (128, 64), (64, 64)]):
        Image.effect_noise(size, 80 + number).save(pictures / f"{number}.png")
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 0, 20, 64))
    mask.save(pictures / "2.mask.png")
    config = settings(images=pictures, resolution=64, buckets=True, flip=True, prior_from="prediction", batch_size=1)
    planned = plan(config, "runs/dog", on_progress=quiet)
    assert sum(count for _, _, count in planned.buckets) == 6, "mirrored ones count"
    assert planned.buckets[0][0] > planned.buckets[0][1], "the long pictures stay long"
    assert (planned.class_pictures, planned.epochs) == (0, 1.0)


def test_trained_text_encoders_are_probed_too(settings: Settings, nowhere: Path) -> None:
    unet = plan(settings(prior=False), "runs/dog", on_progress=quiet)
    both = plan(settings(prior=False, text_encoder=True), "runs/dog", on_progress=quiet)
    assert both.parameters > unet.parameters
    assert both.layers > unet.layers


def test_scale_is_that_of_the_method(settings: Settings, nowhere: Path) -> None:
    planned = plan(settings(rank=4, alpha=1, prior=False), "runs/dog", on_progress=quiet)
    assert planned.scale == 0.25
    stabilised = settings(rank=4, alpha=1, prior=False, method_options={"rslora": True})
    assert plan(stabilised, "runs/dog", on_progress=quiet).scale == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "nowhere"}, "no image folder"),
        ({"base": "nowhere"}, "no base model 'nowhere'"),
        ({"method": "loar"}, "unknown method 'loar'"),
        ({"rank": 1000}, "rank = 1000 is too high for a layer"),
    ],
)
def test_bad_input_is_that_of_a_training(
    settings: Settings, nowhere: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DreamtuneError, match=message) as planned:
        plan(settings(**changes), "run", on_progress=quiet)
    with pytest.raises(DreamtuneError) as real:
        train(settings(**changes), "run", on_progress=quiet)
    assert (type(planned.value), str(planned.value)) == (type(real.value), str(real.value))


def test_a_run_that_is_there_cannot_be_planned_again(settings: Settings, trained: TrainResult) -> None:
    with pytest.raises(RunFolderError, match="already exists"):
        plan(settings(), trained.run, on_progress=quiet)


def test_command(
    photos: Path, tiny: Path, nowhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", str(photos), "--class", "dog", "--base", str(tiny), "--dry-run", "--set", "prior_images=2"]
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result.keys() == PlanResult.__dataclass_fields__.keys()
    assert result["config"].keys() == TrainConfig.model_fields.keys()
    assert result["buckets"] == [{"width": 32, "height": 32, "pictures": 3}]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run         runs/{photos.name}-lora, not written"
    assert "method      lora, rank 8, alpha 8: scale 1" in lines
    assert list(nowhere.iterdir()) == []
    assert main([*command, "--resume", "x"]) == 2
