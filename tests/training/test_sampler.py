"""Draws depend on seed and position alone, and every picture gets its turn."""

from collections import Counter

import pytest
import torch

from dreamtune.training.sampler import Sampler


def sampler(**changes: int) -> Sampler:
    values = {"seed": 3, "batch_size": 4, "subjects": 5, "prior": 7, "timesteps": 1000} | changes
    return Sampler(**values, shape=(4, 6, 6))


def test_any_order_of_positions_gives_the_same_draws() -> None:
    forward = [sampler().draw(position) for position in range(6)]
    for position in (5, 0, 3):
        again = sampler().draw(position)
        assert again.subjects == forward[position].subjects
        assert again.prior == forward[position].prior
        assert torch.equal(again.timesteps, forward[position].timesteps)
        assert torch.equal(again.noise, forward[position].noise)


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    sampler().draw(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 13])
def test_each_pass_shows_every_picture_once(batch_size: int) -> None:
    draws = [sampler(batch_size=batch_size).draw(position) for position in range(70)]
    rows = [row for draw in draws for row in draw.subjects]
    for start in range(0, len(rows) - 4, 5):
        assert sorted(rows[start : start + 5]) == [0, 1, 2, 3, 4]
    orders = {tuple(rows[start : start + 5]) for start in range(0, 50, 5)}
    assert len(orders) > 5, "passes must be shuffled anew"


def test_batch_has_both_halves_or_one() -> None:
    with_prior, without = sampler().draw(0), sampler(prior=0).draw(0)
    assert (len(with_prior.subjects), len(with_prior.prior), len(with_prior.timesteps)) == (4, 4, 8)
    assert with_prior.noise.shape == (8, 4, 6, 6)
    assert (len(without.subjects), without.prior, len(without.timesteps)) == (4, [], 4)


def test_seeds_and_positions_differ() -> None:
    noises = {float(sampler(seed=seed).draw(position).noise[0, 0, 0, 0]) for seed in range(8) for position in range(50)}
    assert len(noises) == 400


def test_timesteps_are_uniform() -> None:
    counts = Counter(int(t) // 100 for position in range(1000) for t in sampler().draw(position).timesteps)
    assert set(counts) == set(range(10))
    chi2 = sum((count - 800) ** 2 / 800 for count in counts.values())
    assert chi2 < 28, "p < 0.001 under a uniform distribution over ten bins"
