"""Examining an adapter on the tiny base."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageStat
from torch import Tensor

from dreamtune.adapters import attach
from dreamtune.adapters.methods import METHODS
from dreamtune.errors import GenerationError
from dreamtune.evaluation import Evaluation, Sampling, default_prompts
from dreamtune.models import Base, load_base

SAMPLING = Sampling(size=32, steps=2, guidance=2.0, seed=5, per_prompt=2)


class Brightness:
    """Knows a picture by the mean of each channel, and holds bright ones for what was asked."""

    name = "brightness"

    def identity(self, pictures: Sequence[Image.Image]) -> Tensor:
        rows = torch.tensor([ImageStat.Stat(picture).mean for picture in pictures])
        return torch.nn.functional.normalize(rows, dim=-1)

    def prompt_scores(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        assert len(pictures) == len(prompts)
        assert not any("sks" in prompt for prompt in prompts), "a judge has never heard of the token"
        return torch.tensor([ImageStat.Stat(picture.convert("L")).mean[0] / 255 for picture in pictures])


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(tiny, "cpu")


def references() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), color) for color in ((200, 30, 30), (180, 60, 40))]


def test_a_new_adapter_changes_nothing_and_a_moved_one_does(base: Base) -> None:
    pairs = default_prompts("sks", "dog", 3)
    with attach(base.unet, METHODS["lora"].config_class(rank=2), strength=0.5) as attached:
        attached.train()
        state = torch.get_rng_state()
        evaluation = Evaluation(base, attached, Brightness(), references(), pairs, SAMPLING)
        still = evaluation.measure()
        assert (still.drift, still.class_word.share) == pytest.approx((0.0, 0.0), abs=3e-7)
        assert [p.tobytes() for p in still.pictures_class] == [p.tobytes() for p in still.pictures_before]
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.normal_(std=4, generator=torch.Generator().manual_seed(0))
        moved = evaluation.measure()
        assert moved.drift > 1e-6
        assert abs(moved.class_word.share) > 1e-4
        assert moved.prompt_base == still.prompt_base
        assert evaluation.measure(strength=0).drift == pytest.approx(0.0, abs=3e-7)
        assert (attached.strength, attached.training) == (0.5, True), "left as it was"
        assert torch.equal(torch.get_rng_state(), state), "drawing takes nothing from the training's random numbers"


def test_figures_of_prompts_are_parts_of_the_whole(base: Base) -> None:
    pairs = default_prompts("sks", "dog", 3)
    with attach(base.unet, METHODS["lora"].config_class(rank=2)) as attached:
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter.normal_(std=4, generator=torch.Generator().manual_seed(0))
        measured = Evaluation(base, attached, Brightness(), references(), pairs, SAMPLING).measure()
    rows = measured.by_prompt
    assert [row.prompt for row in rows] == [pair.named for pair in pairs]
    assert len(measured.pictures_after) == 6
    for whole, parts in {
        measured.subject.generated: [row.likeness for row in rows],
        measured.subject.base: [row.likeness_base for row in rows],
        measured.prompt: [row.score for row in rows],
        measured.prompt_base: [row.score_base for row in rows],
        measured.drift: [row.drift for row in rows],
    }.items():
        assert sum(parts) / 3 == pytest.approx(whole, abs=1e-6)


def test_too_little_memory_is_an_error_that_says_so(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        return torch.empty(2**58)

    monkeypatch.setattr(Base, "draw", fail)
    with (
        attach(base.unet, METHODS["lora"].config_class(rank=2)) as attached,
        pytest.raises(GenerationError, match="out of device memory at 32 pixels: lower size"),
    ):
        Evaluation(base, attached, Brightness(), references(), default_prompts("sks", "dog", 1), SAMPLING)


def test_nan_is_an_error(base: Base) -> None:
    with attach(base.unet, METHODS["lora"].config_class(rank=2)) as attached:
        evaluation = Evaluation(base, attached, Brightness(), references(), default_prompts("sks", "dog", 1), SAMPLING)
        with torch.no_grad():
            next(attached.parameters()).fill_(torch.nan)
        with pytest.raises(GenerationError, match="'a sks dog on the beach' came out as NaN"):
            evaluation.measure()
