"""Draws depend on seed and position alone, and every picture gets its turn."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from dreamtune.training.batches import MicroBatches, Shape

SQUARE, WIDE = (4, 6, 6), (4, 5, 7)


def sampler(
    seed: int = 3, batch_size: int = 4, subjects: tuple[Shape, ...] = (SQUARE,) * 5, prior: int = 7
) -> MicroBatches:
    return MicroBatches(seed, batch_size, subjects, (SQUARE,) * prior, timesteps=range(1000))


def test_any_order_of_positions_gives_the_same_draws() -> None:
    forward = [sampler().draw(position) for position in range(6)]
    for position in (5, 0, 3):
        again = sampler().draw(position)
        assert again.seed == forward[position].seed
        for part, before in ((again.subjects, forward[position].subjects), (again.prior, forward[position].prior)):
            assert part is not None and before is not None
            assert part.rows == before.rows
            for name in ("timesteps", "noise", "shift"):
                assert torch.equal(getattr(part, name), getattr(before, name))


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    sampler().draw(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 13])
def test_each_pass_shows_every_picture_once(batch_size: int) -> None:
    draws = [sampler(batch_size=batch_size).draw(position) for position in range(70)]
    rows = [row for draw in draws for row in draw.subjects.rows]
    for start in range(0, len(rows) - 4, 5):
        assert sorted(rows[start : start + 5]) == [0, 1, 2, 3, 4]
    orders = {tuple(rows[start : start + 5]) for start in range(0, 50, 5)}
    assert len(orders) > 5, "passes must be shuffled anew"


def test_batch_has_both_halves_or_one() -> None:
    both = sampler().draw(0)
    assert both.prior is not None
    for part in (both.subjects, both.prior):
        assert (len(part.rows), part.timesteps.shape, part.noise.shape, part.shift.shape) == (
            4,
            (4,),
            (4, *SQUARE),
            (4, 4),
        )
    assert not torch.equal(both.subjects.noise, both.prior.noise)
    assert sampler(prior=0).draw(0).prior is None


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_batch_has_one_shape_and_all_pictures_are_seen_equally_often(batch_size: int) -> None:
    """Two wide pictures among six: a third of the micro-batches in every round of three."""
    shapes = (SQUARE, WIDE, SQUARE, SQUARE, WIDE, SQUARE)
    draws = [sampler(batch_size=batch_size, subjects=shapes).draw(position).subjects for position in range(60)]
    for draw in draws:
        assert {shapes[row] for row in draw.rows} == {draw.noise.shape[1:]}
    assert set(Counter(row for draw in draws for row in draw.rows).values()) == {10 * batch_size}
    wide = [draw.noise.shape[1:] == WIDE for draw in draws]
    rounds = {tuple(wide[start : start + 3]) for start in range(0, 60, 3)}
    assert {sum(turns) for turns in rounds} == {1}
    assert len(rounds) == 3, "the order of shapes must be shuffled too"


def test_seeds_and_positions_differ() -> None:
    draws = [sampler(seed=seed).draw(position) for seed in range(8) for position in range(50)]
    assert len({float(draw.subjects.noise[0, 0, 0, 0]) for draw in draws}) == 400
    assert len({draw.seed for draw in draws}) == 400


def test_timesteps_are_uniform() -> None:
    counts = Counter(int(t) // 100 for position in range(2000) for t in sampler().draw(position).subjects.timesteps)
    assert set(counts) == set(range(10))
    chi2 = sum((count - 800) ** 2 / 800 for count in counts.values())
    assert chi2 < 28, "p < 0.001 under a uniform distribution over ten bins"


def test_captions_and_their_dropout_change_nothing_else() -> None:
    plain, dropping = sampler(batch_size=8), replace(sampler(batch_size=8), caption_dropout=0.25)
    draws = [(plain.draw(position), dropping.draw(position)) for position in range(300)]
    for one, other in draws:
        for first, second in ((one.subjects, other.subjects), (one.prior, other.prior)):
            assert first is not None and second is not None
            assert (first.rows, first.captions) == (second.rows, second.captions)
            assert torch.equal(first.noise, second.noise) and torch.equal(first.timesteps, second.timesteps)
        assert one.seed == other.seed and one.prior is not None and one.prior.captions == ()
    places = [place for one, _ in draws for place in one.subjects.captions]
    assert min(places) >= 0 and max(places) < 1
    assert all(abs(sum(int(place * 3) == n for place in places) / len(places) - 1 / 3) < 0.05 for n in range(3))
    assert not any(any(one.subjects.nameless) for one, _ in draws)
    assert sum(sum(other.subjects.nameless) for _, other in draws) / len(places) == pytest.approx(0.25, abs=0.03)


def test_timesteps_of_a_range() -> None:
    part = replace(sampler(batch_size=8), timesteps=range(200, 203))
    assert {int(t) for position in range(40) for t in part.draw(position).subjects.timesteps} == {200, 201, 202}


def test_composites_take_the_place_of_their_share() -> None:
    """All else stays what it is without them, so that a share of 0 changes nothing."""
    plain = sampler()
    mixed = replace(plain, composites=(SQUARE,) * 6, compose=0.3)
    counts = []
    for position in range(200):
        before, now = plain.draw(position), mixed.draw(position)
        assert now.prior is not None and before.prior is not None and before.composites is None
        assert torch.equal(now.prior.noise, before.prior.noise)
        count = 0 if now.composites is None else len(now.composites.rows)
        assert now.subjects.rows == before.subjects.rows[: 4 - count]
        assert torch.equal(now.subjects.noise, before.subjects.noise[: 4 - count])
        if now.composites is not None:
            assert now.composites.noise.shape == (count, *SQUARE)
            assert len(now.composites.captions) == len(now.composites.nameless) == count
        counts.append(count)
    assert 4 in counts and 0.25 < sum(counts) / 800 < 0.35
    assert mixed.draw(7).composites == mixed.draw(7).composites or counts[7]
    rows = Counter(row for position in range(200) for row in getattr(mixed.draw(position).composites, "rows", ()))
    assert set(rows) == set(range(6))
