"""What prompts with several adapters' words become: one of classes, and one for each region."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreamtune.errors import ConfigError
from dreamtune.pipelines.generate.layout_prompts import class_prompt


def adapter(*subjects: tuple[str, str]) -> Any:
    """What is asked of an adapter."""
    tokens = tuple(token for token, _ in subjects if token)
    return SimpleNamespace(
        path=Path(f"{tokens[0] if tokens else 'style'}.safetensors"),
        file=SimpleNamespace(tokens=tokens, subjects=subjects),
    )


DOG, CAT = adapter(("zwx", "dog")), adapter(("sks", "cat"))


@pytest.mark.parametrize(
    ("prompt", "text", "own", "red"),
    [
        (
            "a sks cat and a zwx dog on the beach",
            "a cat and a dog on the beach",
            ["a sks cat on the beach", "a zwx dog on the beach"],
            ["a red cat and a dog on the beach", "a cat and a red dog on the beach"],
        ),
        (
            "a zwx dog on the left and a sks cat on the right in the snow",
            "a dog on the left and a cat on the right in the snow",
            ["a zwx dog in the snow", "a sks cat in the snow"],
            ["a red dog on the left and a cat on the right in the snow",
             "a dog on the left and a red cat on the right in the snow"],
        ),
        (
            "an oil painting of a big sks cat wearing a hat, and the ZWX dog with spots, at night",
            "an oil painting of a big cat wearing a hat, and the dog with spots, at night",
            ["an oil painting of a big sks cat wearing a hat, at night",
             "an oil painting of the ZWX dog with spots, at night"],
            ["an oil painting of a big red cat wearing a hat, and the dog with spots, at night",
             "an oil painting of a big cat wearing a hat, and the red dog with spots, at night"],
        ),
        (
            "zwx beside an sks little cat",
            "dog beside a little cat",
            ["zwx", "an sks little cat"],
            ["red dog beside a little cat", "dog beside a little red cat"],
        ),
    ],
)  # fmt: skip
def test_a_prompt_of_two(prompt: str, text: str, own: list[str], red: list[str]) -> None:
    read = class_prompt(prompt, [CAT, DOG])
    assert read.text == text
    assert [it.prompt for it in read.subjects] == own
    assert [it.use for it in read.subjects] == (
        [CAT, DOG] if prompt.find("sks") < prompt.lower().find("zwx") else [DOG, CAT]
    )
    assert [read.recolored("red", subject) for subject in (0, 1)] == red


@pytest.mark.parametrize(
    ("prompt", "sides", "beside"),
    [
        (
            "a sks cat and a zwx dog on the beach",
            ("on the left", "on the right"),
            ["a sks cat on the left and a dog on the right on the beach",
             "a zwx dog on the right and a cat on the left on the beach"],
        ),
        (
            "a photo of a zwx dog on the left and an old sks cat on the right, at night",
            ("on the right", "on the left"),
            ["a photo of a zwx dog on the right and a cat on the left, at night",
             "a photo of an old sks cat on the left and a dog on the right, at night"],
        ),
    ],
)  # fmt: skip
def test_a_region_names_its_own_first_and_the_other_as_any(
    prompt: str, sides: tuple[str, str], beside: list[str]
) -> None:
    """At the places that a draft has them in, whatever sides the prompt names."""
    read = class_prompt(prompt, [CAT, DOG])
    assert [read.beside(number, sides) for number in (0, 1)] == beside


def test_three_side_by_side() -> None:
    owl = adapter(("vrk", "owl"))
    read = class_prompt("a sks cat, a zwx dog and a vrk owl in the snow", [CAT, DOG, owl])
    sides = ("in the middle", "on the left", "on the right")
    assert read.beside(2, sides) == "a vrk owl on the right, a cat in the middle and a dog on the left in the snow"


def test_two_of_one_class_three_and_several_in_one_file() -> None:
    both = adapter(("sks", "cat"), ("qpl", "cat"), ("vrk", "owl"))
    read = class_prompt("a qpl cat, a sks cat and a zwx dog", [both, DOG, adapter()])
    assert read.text == "a cat, a cat and a dog"
    assert [(it.prompt, it.use) for it in read.subjects] == [
        ("a qpl cat", both),
        ("a sks cat", both),
        ("a zwx dog", DOG),
    ]
    assert read.recolored("orange", 1) == "a cat, an orange cat and a dog"


@pytest.mark.parametrize(
    ("prompt", "adapters", "message"),
    [
        ("a sks cat at night", [CAT, DOG], "names no subject of zwx.safetensors: add e.g. 'a zwx dog'"),
        ("a sks cat", [CAT], "names 1: omit layout"),
        ("a beach", [adapter()], "names 0: omit layout"),
        ("a sks cat and a sks dog", [CAT, adapter(("SKS", "dog"))], "both use the token 'sks'"),
        ("a sks and a zwx dog", [adapter(("sks", "")), DOG], "does not record the class of 'sks'"),
    ],
)
def test_prompts_that_cannot_be_laid_out(prompt: str, adapters: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        class_prompt(prompt, adapters)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("prompt", "order"),
    [
        ("a zwx dog on the left and a sks cat on the right", [0, 1]),
        ("a zwx dog on the right and a sks cat on the left, at night", [1, 0]),
        ("a sks cat to the right and a zwx dog in the middle", [1, 0]),
        ("a sks cat and a zwx dog on the beach", []),
        ("a zwx dog on the right and a sks cat", []),
        ("a zwx dog on the right and a sks cat on the right", []),
        ("a zwx dog and a sks cat on the left of a house", []),
    ],
)
def test_the_sides_that_a_prompt_gives(prompt: str, order: list[int]) -> None:
    assert class_prompt(prompt, [CAT, DOG]).from_the_left() == order
