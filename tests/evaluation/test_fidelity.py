"""Subject and prompt fidelity."""

import pytest
import torch

from dreamtune.evaluation import prompt_fidelity, subject_fidelity
from dreamtune.pocket.evaluators import Found, Reading
from dreamtune.pocket.world import random_subject


def rows(angle: float, n: int = 2) -> torch.Tensor:
    a = torch.tensor(angle)
    return torch.stack([a.cos(), a.sin()]).expand(n, 2)


def reading(cls: str, color: str, context: str) -> Reading:
    return Reading(context, (Found(cls, color, "plain", None, None, (0.0, 0.0, 1.0, 1.0), 1.0),))


def test_base_is_zero_real_pictures_are_one() -> None:
    base, real, references = rows(1.2), rows(0.1), rows(0.0)
    assert subject_fidelity(base, base, real, references).share == pytest.approx(0.0, abs=1e-6)
    assert subject_fidelity(real, base, real, references).share == pytest.approx(1.0)
    assert 0 < subject_fidelity(rows(0.8), base, real, references).share < 1


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pictures in 'generated'"):
        subject_fidelity(rows(0, 0), rows(0), rows(0), rows(0))


def test_prompt_fidelity_counts_context_class_and_named_colour() -> None:
    prompts = ["a red cat in the snow", "a dog on the beach"]
    shown = [reading("cat", "blue", "snow"), reading("dog", "red", "desert")]
    assert prompt_fidelity(shown, prompts) == pytest.approx(3 / 5)  # cat, snow, dog of cat, red, snow, dog, beach


def test_the_individuals_colour_is_not_asked_for() -> None:
    import random

    subject = random_subject(random.Random(0), "cat")
    assert prompt_fidelity([reading("cat", "blue", "snow")], ["a sks cat in the snow"], subject) == 1.0


def test_prompts_that_ask_for_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="name no class"):
        prompt_fidelity([reading("cat", "blue", "snow")], ["hello"])
