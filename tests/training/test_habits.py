"""What users of other trainers write by habit is answered with what does it here."""

import re
from typing import Any

import pytest

from dreamtune.errors import ConfigError
from dreamtune.training.config import TrainConfig
from dreamtune.training.equivalents import EQUIVALENTS, OTHER_NAMES
from dreamtune.training.habits import HABITS, NAMES, VALUES

NEEDED: dict[str, Any] = {"images": "photos", "class_word": "dog"}


def test_no_name_has_two_answers_or_is_a_setting() -> None:
    names = [name for habit in HABITS for name in habit.names]
    assert len(names) == len(set(names))
    assert set(names) & (TrainConfig.model_fields.keys() | OTHER_NAMES.keys()) == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_without_counterpart_is_answered(name: str) -> None:
    values: dict[str, Any] = NEEDED | {name: 1}
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**values)
    assert str(caught.value) == f"unknown setting {name!r}: {NAMES[name]}"


def test_answers_name_settings_that_there_are() -> None:
    elsewhere = {"num_hidden_layers", "dropout", "weight_decompose"}
    for answer in NAMES.values():
        quoted = re.findall(r"`([a-z_]+)[:`]", answer)
        assert set(quoted) <= TrainConfig.model_fields.keys() | elsewhere, answer


@pytest.mark.parametrize(("key", "value"), VALUES)
def test_a_value_of_other_trainers_is_answered(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**NEEDED | {key: value})
    assert str(caught.value) == f"{key} = {value!r}: {VALUES[key, value]}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("warmup_steps", 0.1, "a number of steps, not a fraction of them"),
        ("text_encoder_lr", [1e-5, 1e-5], "all text encoders share one rate"),
        ("optimizer", "AdamW8bit", r"write it in lower case \(adamw8bit\)"),
        ("optimizer", "lion", "must be 'adamw', 'adamw8bit' or 'prodigy'"),
        ("prior_weight", -1, "must be greater than 0"),
    ],
)
def test_other_bad_values(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**NEEDED | {key: value})


def test_our_settings_have_one_row() -> None:
    assert {row.ours for row in EQUIVALENTS} & NAMES.keys() == set()
