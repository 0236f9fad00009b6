"""Composites in a training: planned, made, seen at their share, the same after a resume."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dreamtune.errors import ConfigError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.plan import plan
from dreamtune.pipelines.train.run import train
from dreamtune.training import loop
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData

Settings = Callable[..., TrainConfig]
SIZE = 64
"""Of the tiny base's pictures here: its own are too small for two things."""


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


def test_they_are_seen_beside_the_subject(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingData] = []
    fit = loop.fit

    def watch(unet: object, attached: object, data: TrainingData, *rest: object, **more: object) -> int:
        seen.append(data)
        return fit(unet, attached, data, *rest, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("dreamtune.pipelines.train.run.fit", watch)
    config = settings(compose=0.5, compose_with=("mug",), resolution=SIZE, buckets=False, steps=2, prior=False)
    told: list[Progress] = []
    train(config, tmp_path / "run", on_progress=told.append)
    (data,) = seen
    assert len(data.composites) >= 48 and not data.prior
    prompts = {data.texts[row] for example in data.composites for row in example.prompts}
    assert {"a sks dog on the left and a mug on the right", "a mug and a sks dog"} < prompts
    assert len(prompts) == 5 and all("sks dog" in it and "a mug" in it for it in prompts)
    assert (told[-1].phase, [it.total for it in told if it.phase == "prior"][-1]) == ("train", 16)


def test_a_resumed_run_sees_the_same(settings: Settings, tmp_path: Path) -> None:
    config = settings(
        warmup_steps=0,
        lr_schedule="constant",
        compose=0.5,
        resolution=SIZE,
        buckets=False,
        steps=4,
        checkpoint_every=2,
        prior_from="prediction",
    )
    whole = train(config, tmp_path / "whole", on_progress=quiet)
    train(config.changed(steps=2), tmp_path / "parts", on_progress=quiet)
    again = train(config, tmp_path / "parts", resume=True, on_progress=quiet)
    assert again.final_loss == whole.final_loss
    tensors = [it.adapter.read_bytes()[-1000:] for it in (whole, again)]
    assert tensors[0] == tensors[1]


def test_a_dry_run_tells_them(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(compose=0.25, resolution=SIZE, buckets=False)
    found, without = plan(config, tmp_path / "run", quiet), plan(config.changed(compose=0), tmp_path / "run", quiet)
    assert found.composites >= 48 and without.composites == 0
    assert found.epochs == pytest.approx(0.75 * without.epochs)
    assert found.cache > without.cache
    options = ["--class", "dog", "--base", config.base, "--dry-run", "--out", str(tmp_path / "run")]
    values = f"compose=0.25 compose_with=[mug,boat] resolution={SIZE} buckets=false steps=2 prior=false"
    chosen = [text for value in values.split() for text in ("--set", value)]
    assert main(["train", str(config.images), *options, *chosen]) == 0
    assert f"\ncomposites  {found.composites}, beside mug, boat: 25% of the images seen\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compose": 1}, "compose"),
        ({"compose": -0.1}, "compose"),
        ({"compose_with": ("mug",)}, "compose_with needs composites: set compose too"),
        ({"compose": 0.3, "compose_with": (" ",)}, "must name a thing in plain words"),
        ({"compose": 0.3, "compose_with": ("a sks mug",)}, "but that contains the token 'sks': set compose_with"),
        ({"compose": 0.3, "token": "dog"}, "'dog' beside the subject, but that contains the token 'dog'"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str, settings: Settings) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_a_base_too_small_for_two_things(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="too small for composites, which show .* in each half: .*, or set compose to 0$"
    ):
        plan(settings(compose=0.3, resolution=16), tmp_path / "run", quiet)
