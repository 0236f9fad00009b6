"""Prior preservation without pictures: the base's own prediction."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamtune.models.conditioning import unet_inputs
from dreamtune.training.data import TrainingData
from dreamtune.training.objective import Objective
from tests.training.tiny_trainings import (
    PLAIN,
    SIZE,
    SQUARES,
    Run,
    forward_shapes,
    make_config,
    make_prompts,
    make_unet,
)


def test_prior_without_pictures_is_the_bases_own_prediction(tmp_path: Path) -> None:
    """At the first step the adapter is 0: the base agrees with itself. Later they part. One more pass, no gradients."""
    unet = make_unet()
    passes, free = forward_shapes(unet), forward_shapes(unet, grad=False)
    data = TrainingData(SQUARES, (), make_prompts(2), ("a sks dog", "a dog"), class_prompt=1)
    run = Run(tmp_path, data, make_config(steps=4), unet)
    first, *others = (record.prior_loss for record in run.records)
    assert first is not None and first < 1e-10
    assert all(loss is not None and loss > 1e-7 for loss in others)
    assert len(passes) == 8 and free == [(2, 4, 8, 8)] * 4
    assert run.attached.strength == 1


def test_that_prior_is_of_the_whole_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask says where the subject is; the class keeps its meaning everywhere."""
    masks, errors = list[Tensor | None](), Objective.errors

    def watch(self: Objective, prediction: Tensor, goal: Tensor, timesteps: Tensor, mask: Tensor | None) -> Tensor:
        masks.append(mask)
        return errors(self, prediction, goal, timesteps, mask)

    monkeypatch.setattr(Objective, "errors", watch)
    masked = tuple(replace(example, mask=torch.full((SIZE, SIZE), 0.25)) for example in SQUARES)
    data = TrainingData(masked, (), make_prompts(2), ("a sks dog", "a dog"), class_prompt=1)
    Run(tmp_path, data, make_config(steps=1))
    (mask,) = masks
    assert mask is not None and mask[:, 0, 0].tolist() == [0.25, 0.25, 1.0, 1.0]


@pytest.mark.slow
def test_that_prior_holds_the_class_where_training_without_one_loses_it(tmp_path: Path) -> None:
    noisy, timesteps = torch.randn(6, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(3)), torch.arange(6) * 15
    prompts = make_prompts(2)

    def change(run: Run) -> float:
        inputs = unet_inputs([prompts[1]] * 6)
        with torch.no_grad():
            own = run.unet(noisy, timesteps, **inputs).sample
            with run.attached.disabled():
                base = run.unet(noisy, timesteps, **inputs).sample
        return float((own - base).square().mean())

    config = make_config(steps=30)
    free = Run(tmp_path, replace(PLAIN, prompts=prompts), config)
    data = TrainingData(SQUARES, (), prompts, ("a sks dog", "a dog"), class_prompt=1)
    held = Run(tmp_path, data, config.changed(prior_weight=10.0))
    assert change(held) < 0.5 * change(free)
