"""Custom Diffusion's fusion: the solution of the paper, and what its constraints and captions are for."""

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.errors import ConfigError
from dreamtune.fusion.constrained import fuse_custom_diffusion
from dreamtune.fusion.layer_deltas import LayerDelta

OUT, IN, WORDS, CAPTIONS = 12, 16, 4, 60


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT = drawn(OUT, IN, seed=0)
CHANGES = [drawn(OUT, 2, seed=s) @ drawn(2, IN, seed=s + 1) for s in (1, 3)]
SUBJECTS = [drawn(WORDS, IN, seed=s) for s in (5, 6)]
"""Text features (words, in) of each subject's captions."""
REGULAR = drawn(CAPTIONS, IN, seed=7)


def parts(weights: tuple[float, float] = (1.0, 1.0)) -> list[LayerDelta]:
    kept = REGULAR.T @ REGULAR / CAPTIONS
    return [
        LayerDelta(Delta.of_matrix(change), weight, inputs=c.T @ c / WORDS, kept=kept)
        for change, weight, c in zip(CHANGES, weights, SUBJECTS, strict=True)
    ]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, -2.0)])
def test_it_is_the_solution_of_the_paper(weights: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamtune.fusion.constrained.RIDGE", 1e-9)
    monkeypatch.setattr("dreamtune.fusion.constrained._FLOOR", 0.0)
    c = torch.cat(SUBJECTS)
    v = torch.cat([s @ (WEIGHT + w * it).T for s, w, it in zip(SUBJECTS, weights, CHANGES, strict=True)])
    d = c @ torch.linalg.inv(REGULAR.T @ REGULAR)
    vt = (v - c @ WEIGHT.T).T @ torch.linalg.inv(d @ c.T)
    found = fuse_custom_diffusion(parts(weights), 1.0).dense()
    torch.testing.assert_close(found, vt @ d, rtol=1e-4, atol=1e-4)


def test_each_subject_keeps_its_words_and_captions_change_least() -> None:
    found = fuse_custom_diffusion(parts(), 1.0).dense().double()
    for c, change in zip(SUBJECTS, CHANGES, strict=True):
        assert float((c @ (found - change).T).norm() / (c @ change.T).norm()) < 0.02
    assert float((REGULAR @ found.T).norm()) < 0.7 * float((REGULAR @ sum(CHANGES, torch.zeros(OUT, IN)).T).norm())


def test_subjects_that_want_different_things_of_one_word_share_it() -> None:
    same = [LayerDelta(part.delta, 1.0, inputs=parts()[0].inputs, kept=part.kept) for part in parts()]
    found = fuse_custom_diffusion(same, 1.0).dense().double()
    expected = SUBJECTS[0] @ (CHANGES[0] + CHANGES[1]).T / 2
    torch.testing.assert_close(SUBJECTS[0] @ found.T, expected, rtol=0.02, atol=0.05)


def test_captions_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="needs inputs recorded with captions"):
        fuse_custom_diffusion([LayerDelta(part.delta, 1.0, inputs=part.inputs) for part in parts()], 1.0)
