"""Class pictures of several prompts: each drawn and kept for itself, all of them seen."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamtune.data.encode import Example
from dreamtune.errors import ConfigError
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.plan import plan
from dreamtune.pipelines.train.run import train
from dreamtune.training import loop
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData

Settings = Callable[..., TrainConfig]
SCENES = ("a {class}", "a mug on the left and a {class} on the right")


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[TrainingData]:
    """What trainings were given."""
    found: list[TrainingData] = []
    fit = loop.fit

    def watch(unet: object, attached: object, data: TrainingData, *rest: object, **more: object) -> int:
        found.append(data)
        return fit(unet, attached, data, *rest, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("dreamtune.pipelines.train.run.fit", watch)
    return found


def prompts_of(examples: tuple[Example, ...], data: TrainingData) -> list[str]:
    return [data.texts[row] for example in examples for row in example.prompts]


def test_they_share_the_pictures(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[TrainingData]
) -> None:
    monkeypatch.setenv("DREAMTUNE_CACHE", str(tmp_path / "cache"))
    told: list[Progress] = []
    config = settings(class_prompts=SCENES, prior_images=5, steps=2)
    train(config, tmp_path / "run", on_progress=told.append)
    (data,) = seen
    expected = ["a dog"] * 3 + ["a mug on the left and a dog on the right"] * 2
    assert prompts_of(data.prior, data) == expected
    assert all("sks dog" in prompt for prompt in prompts_of(data.subjects, data))
    kept = {json.loads(file.read_text())["prompt"] for file in (tmp_path / "cache" / "prior").glob("*/prior.json")}
    assert kept == set(expected)
    drawn = [(it.done, it.total) for it in told if it.phase == "prior"]
    assert drawn[-1] == (5, 5) and [done for done, _ in drawn] == sorted(done for done, _ in drawn)


def test_one_of_them_alone_is_the_class_prompt(settings: Settings, tmp_path: Path) -> None:
    one, other = settings(class_prompts=("a {class} here",), steps=2), settings(class_prompt="a {class} here", steps=2)
    first, second = (train(it, tmp_path / name, on_progress=quiet) for it, name in ((one, "one"), (other, "other")))
    assert first.adapter.read_bytes()[-1000:] == second.adapter.read_bytes()[-1000:]
    assert first.final_loss == second.final_loss


def test_a_dry_run_has_them_too(settings: Settings, tmp_path: Path) -> None:
    found = plan(settings(class_prompts=SCENES, prior_images=5), tmp_path / "run", quiet)
    assert found.class_pictures == 5
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"class_prompts": ("a {class}", "a {token} {class}")}, "'a {token} {class}' contains the token 'sks'"),
        ({"class_prompt": "a SKS {class}"}, "'a SKS {class}' contains the token"),
        ({"class_prompts": SCENES, "prior_from": "prediction"}, "takes a single class prompt"),
        ({"class_prompts": SCENES, "prior_images": 1}, "prior_images = 1 is too few for the 2"),
        ({"class_prompts": ("a {class}", " ")}, "class_prompts is empty"),
    ],
)
def test_what_cannot_be(settings: Settings, changes: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings(**changes)


def test_a_token_that_is_part_of_the_class_is_not_refused_for_it(settings: Settings) -> None:
    config = settings(class_word="toy dog", token="toy")
    assert config.prior_prompts == ("a photo of a toy dog",)
