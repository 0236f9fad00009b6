"""Pictures of two subjects, made of embeddings whose answer is known."""

import pytest
import torch
from torch import Tensor

from benchmarks.pairs_judging import Couple, judge_couple, strict_share

A, B, NEITHER = torch.eye(3)


def between(own: float, other: float = 0.0, first: bool = True) -> Tensor:
    """A unit row of this likeness to the one and to the other subject."""
    rest = (1 - own**2 - other**2) ** 0.5
    one, two = (own, other) if first else (other, own)
    return one * A + two * B + rest * NEITHER


@pytest.fixture
def couple() -> Couple:
    return Couple((A[None], B[None]), (0.2, 0.2), (0.8, 0.8), (0.1, 0.1))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([between(0.8, 0.1), between(0.8, 0.1, first=False)], (1, 0, 0, 0.6, 0.0, 1)),
        ([between(0.8, 0.1, first=False), between(0.8, 0.1)], (0, 1, 0, 0.6, 0.0, 0)),
        (
            [between(0.8, 0.1), between(0.4, 0.2, first=False)],
            (0, 0, 0, (0.6 + 0.2) / 2, 0.05, 0),
        ),  # the second too weak
        ([between(0.8, 0.1), between(0.6, 0.2, first=False)], (1, 0, 0, (0.6 + 0.4) / 2, 0.05, 1)),
        ([between(0.8, 0.1), between(0.8, 0.5)], (0, 0, 1, (0.6 + 0.3) / 2, (0.0 + 0.7) / 2, 0)),  # the first one twice
        ([between(0.8, 0.3)], (0, 0, 1, 0.3, 0.2, 0)),  # one subject is missing
    ],
)
def test_what_a_picture_shows(found: list[Tensor], expected: tuple[float, ...], couple: Couple) -> None:
    judged = judge_couple([torch.stack(found)], couple)
    assert tuple(vars(judged).values()) == pytest.approx(expected, abs=1e-6)


def test_figures_are_means_over_pictures(couple: Couple) -> None:
    good = torch.stack([between(0.8, 0.1), between(0.8, 0.1, first=False)])
    judged = judge_couple([good, good.flip(0), good, between(0.8, 0.3)[None]], couple)
    assert (judged.joint, judged.swap, judged.omission) == (0.5, 0.25, 0.25)
    assert judged.gain == pytest.approx((3 * 0.6 + 0.3) / 4)
    assert judged.strict == 0.5
    assert couple.gain == pytest.approx(0.6)
    with pytest.raises(ValueError, match="no pictures"):
        judge_couple([], couple)


def test_three_are_there_if_each_is_itself_in_its_place() -> None:
    references, row = [A[None], B[None], NEITHER[None]], torch.stack([A, B, NEITHER])
    weak = torch.stack([A, 0.4 * B, NEITHER])
    found = [row, row.flip(0), row[:2], weak]
    assert strict_share(found, references) == 0.25
    with pytest.raises(ValueError, match="no pictures"):
        strict_share([], references)
