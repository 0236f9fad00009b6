"""Prompts with the subject's name and without."""

import pytest

from dreamtune.errors import ConfigError
from dreamtune.evaluation import PromptPair, default_prompts, parse_prompts
from dreamtune.evaluation.prompts import PLACES
from dreamtune.pocket.world import CONTEXTS


@pytest.mark.parametrize("text", ["a {token} {class} at night", "a sks dog at night", "a sks {class} at night"])
def test_a_prompt_and_the_same_without_the_name(text: str) -> None:
    assert PromptPair.of(text, "sks", "dog") == PromptPair("a sks dog at night", "a dog at night")


def test_the_token_is_a_word_and_not_a_part_of_one() -> None:
    assert PromptPair.of("a {token} {class} asks", "sks", "dog") == PromptPair("a sks dog asks", "a dog asks")


def test_default_prompts_are_places_that_the_embedded_base_knows() -> None:
    assert tuple(CONTEXTS.values()) == PLACES
    assert default_prompts("sks", "cat", 1) == [PromptPair("a sks cat on the beach", "a cat on the beach")]


def test_file_of_prompts() -> None:
    pairs = parse_prompts(["# places", "", " a {token} {class} here ", "the sks cat there"], "sks", "cat", "p.txt")
    assert [pair.named for pair in pairs] == ["a sks cat here", "the sks cat there"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a {token} {class}", "a cat"], r"p\.txt, line 2: .* does not name the subject: add \{token\}"),
        (["a {token} dog"], r"line 1: .* does not say what the subject is"),
        (["# nothing", ""], r"p\.txt has no prompts"),
    ],
)
def test_prompts_that_cannot_be_used(lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_prompts(lines, "sks", "cat", "p.txt")
