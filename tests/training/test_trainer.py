"""One step at a time on a tiny UNet: what is learned from which pictures, under which prompts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamtune.errors import ConfigError
from dreamtune.models.conditioning import unet_inputs
from dreamtune.training.batches import MicroBatchPart
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.micro_batch import NoisedBatch, join
from dreamtune.training.objective import Objective
from tests.training.tiny_trainings import (
    CLASS,
    PLAIN,
    SDXL,
    SIZE,
    SQUARES,
    WITH_PRIOR,
    Run,
    forward_shapes,
    make_config,
    make_examples,
    make_objective,
    make_prompts,
    make_unet,
)


def test_equal_shapes_share_a_pass_and_others_take_a_second(tmp_path: Path) -> None:
    unet = make_unet()
    shapes = forward_shapes(unet)
    Run(tmp_path, WITH_PRIOR, make_config(steps=1), unet)
    assert shapes == [(4, 4, 8, 8)]
    wide = replace(WITH_PRIOR, subjects=make_examples((6, 10), (6, 10), (8, 8)))
    shapes.clear()
    Run(tmp_path, wide, make_config(steps=6), unet)
    assert sorted(shapes) == sorted([(2, 4, 6, 10), (2, 4, 8, 8)] * 4 + [(4, 4, 8, 8)] * 2)


def test_two_passes_give_the_gradient_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Run(tmp_path, WITH_PRIOR, make_config(steps=1))
    monkeypatch.setattr("dreamtune.training.trainer.join", list)
    apart = Run(tmp_path, WITH_PRIOR, make_config(steps=1))
    assert apart.losses == pytest.approx(together.losses, rel=1e-5)
    assert apart.records[0].grad_norm == pytest.approx(together.records[0].grad_norm, rel=1e-4)
    for part in ("subject_loss", "prior_loss"):
        assert getattr(apart.records[0], part) == pytest.approx(getattr(together.records[0], part), rel=1e-5)


def test_joined_batches_keep_order_masks_and_time_ids() -> None:
    objective = make_objective(make_config())
    masked = [replace(example, mask=torch.full((SIZE, SIZE), 0.5)) for example in SQUARES]
    part = MicroBatchPart([0, 2], torch.tensor([3, 50]), torch.randn(2, 4, SIZE, SIZE), torch.zeros(2, 4))
    first = NoisedBatch.noised(masked, part, objective, torch.device("cpu"))
    second = NoisedBatch.noised(CLASS, part, objective, torch.device("cpu"))
    (both,) = join([first, second])
    assert both.prompts == [0, 0, 1, 1]
    assert both.timesteps.tolist() == [3, 50, 3, 50]
    assert torch.equal(both.noisy[2:], second.noisy)
    assert both.mask is not None and both.mask[:, 0, 0].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert both.time_ids is None


def test_masks_reach_the_loss(tmp_path: Path) -> None:
    """A mask reaches the loss; one that shows all changes nothing."""
    mask = torch.zeros(SIZE, SIZE)
    mask[2:5, 2:5] = 1
    masked = replace(PLAIN, subjects=tuple(replace(example, mask=mask) for example in SQUARES))
    whole = replace(PLAIN, subjects=tuple(replace(example, mask=torch.ones(SIZE, SIZE)) for example in SQUARES))
    config = make_config(steps=1)
    plain = Run(tmp_path, PLAIN, config)
    assert Run(tmp_path, whole, config).losses == pytest.approx(plain.losses, rel=1e-6)
    assert Run(tmp_path, masked, config).losses != pytest.approx(plain.losses, rel=1e-3)


def test_time_ids_and_pooled_states_reach_the_unet(tmp_path: Path) -> None:
    prompts = make_prompts(1, pooled=12)
    data = TrainingData(make_examples(*[(8, 8)] * 3, time_ids=True), (), prompts, ("a sks dog",))
    first = Run(tmp_path, data, make_config(steps=1), make_unet(**SDXL))
    moved = tuple(replace(example, time_ids=torch.full((6,), 9.0)) for example in data.subjects)
    other = Run(tmp_path, replace(data, subjects=moved), make_config(steps=1), make_unet(**SDXL))
    assert first.losses != other.losses
    bare = tuple(replace(example, time_ids=None) for example in data.subjects)
    with pytest.raises(ValueError, match="needs time_ids"):
        Run(tmp_path, replace(data, subjects=bare), make_config(steps=1), make_unet(**SDXL))


def test_a_conditioner_replaces_the_cached_prompts(tmp_path: Path) -> None:
    asked: list[list[int]] = []
    other = make_prompts(3)[2]

    def conditioner(prompts: Sequence[int], time_ids: Tensor | None) -> dict[str, Any]:
        asked.append(list(prompts))
        return unet_inputs([other] * len(prompts), time_ids)

    plain = Run(tmp_path, WITH_PRIOR, make_config(steps=2))
    replaced = Run(tmp_path, WITH_PRIOR, make_config(steps=2), conditioner=conditioner)
    assert asked == [[0, 0, 1, 1]] * 2
    assert replaced.losses != plain.losses


def test_captions_take_turns_and_drop_out(tmp_path: Path) -> None:
    """One of a picture's own each time, or at times the empty prompt; class pictures keep theirs."""
    subjects = tuple(replace(it, prompts=(2 * n, 2 * n + 1)) for n, it in enumerate(SQUARES[:2]))
    prompts = make_prompts(6)
    data = replace(
        WITH_PRIOR, subjects=subjects, prior=tuple(replace(it, prompts=(4,)) for it in CLASS), prompts=prompts
    )
    asked: list[list[int]] = []

    def conditioner(prompts_: Sequence[int], time_ids: Tensor | None) -> dict[str, Any]:
        asked.append(list(prompts_))
        return unet_inputs([prompts[row] for row in prompts_], time_ids)

    Run(tmp_path, data, make_config(steps=20), conditioner=conditioner)
    counts = Counter(row for rows in asked for row in rows[:2])
    assert sorted(counts) == [0, 1, 2, 3] and min(counts.values()) >= 4
    assert all({min(rows[:2]) // 2, max(rows[:2]) // 2} == {0, 1} for rows in asked), "each its own, once in a batch"
    assert all(rows[2:] == [4, 4] for rows in asked)
    before = list(asked)
    asked.clear()
    dropping = make_config(steps=20, caption_dropout=0.3)
    Run(tmp_path / "drop", replace(data, empty=5), dropping, conditioner=conditioner)
    assert 5 <= sum(rows[:2].count(5) for rows in asked) <= 20
    assert all(rows[2:] == [4, 4] for rows in asked)
    kept = [(old, new) for one, two in zip(before, asked, strict=True) for old, new in zip(one, two, strict=True)]
    assert all(new in (old, 5) for old, new in kept), "nothing else changes"


def test_only_timesteps_of_the_range_are_trained(tmp_path: Path) -> None:
    seen: set[int] = set()
    unet = make_unet()
    unet.register_forward_pre_hook(lambda module, inputs: seen.update(inputs[1].tolist()))
    Run(tmp_path, WITH_PRIOR, make_config(steps=12, timestep_min=40, timestep_max=44), unet)
    assert seen == {40, 41, 42, 43}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep_min": 100}, "timestep_min = 100 is beyond the base's 100 timesteps: use at most 99"),
        ({"timestep_max": 101}, "timestep_max = 101 is beyond the base's 100 timesteps: use at most 100"),
    ],
)
def test_timesteps_that_the_base_does_not_have(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_objective(make_config(**change))


def test_debiased_needs_noise_that_is_not_all() -> None:
    a = torch.tensor([0.9, 0.0])
    with pytest.raises(ConfigError, match="debiased has no weight for the last timestep"):
        Objective.of(a, "epsilon", make_config(debiased=True))
    of_v = Objective.of(a, "v_prediction", make_config(debiased=True))
    ones = torch.ones(2, 4, 8, 8)
    assert of_v.errors(ones, 0 * ones, torch.tensor([0, 1]), None).tolist() == pytest.approx([0.3, 0.0])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_accumulation_is_the_mean_over_its_positions(tmp_path: Path, dropout: float) -> None:
    """A step over two positions has the mean of their losses, and with the same draws as one by one."""
    still = make_config(lr=1e-30, steps=4, batch_size=1)
    single = Run(tmp_path, PLAIN, still, dropout=dropout)
    double = Run(tmp_path, PLAIN, still.changed(steps=2, gradient_accumulation_steps=2), dropout=dropout)
    pairs = [sum(single.losses[start : start + 2]) / 2 for start in (0, 2)]
    assert double.losses == pytest.approx(pairs, rel=1e-6)


def test_accumulation_is_the_mean_of_its_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By plain gradient descent: AdamW would hardly see a gradient that is the sum instead."""

    def descent(config: TrainConfig, groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [{"params": list(members), "lr_ratio": 1.0} for members in groups.values()], lr=config.lr
        )

    monkeypatch.setattr("dreamtune.training.optimizers.build", descent)
    still = make_config(lr=1e-20, steps=2, batch_size=1, max_grad_norm=1e9)
    single = Run(tmp_path, PLAIN, still)
    double = Run(tmp_path, PLAIN, still.changed(steps=1, gradient_accumulation_steps=2))
    ups = [name for name in single.weights if name.endswith("up")]  # 0 at first: what is there is the steps' sum
    assert ups
    for name in ups:
        moved = single.weights[name]
        assert moved.abs().max() > 0
        torch.testing.assert_close(double.weights[name], moved / 2, rtol=1e-5, atol=1e-5 * moved.abs().max().item())


@pytest.mark.parametrize(
    "change",
    [
        {"noise_offset": 0.1},
        {"huber_c": 0.1},
        {"huber_c": 0.1, "huber_schedule": "exponential"},
        {"snr_gamma": 0.1},
        {"debiased": True},
    ],
    ids=str,
)
def test_variations_of_the_objective_reach_the_loss(tmp_path: Path, change: dict[str, Any]) -> None:
    plain, varied = Run(tmp_path, PLAIN, make_config(steps=1)), Run(tmp_path, PLAIN, make_config(steps=1, **change))
    assert varied.losses != pytest.approx(plain.losses, rel=1e-3)
