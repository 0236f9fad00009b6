"""The table for users of other trainers names settings that there are."""

import pytest

from dreamtune.errors import ConfigError
from dreamtune.training.config import TrainConfig
from dreamtune.training.equivalents import EQUIVALENTS, OTHER_NAMES


def test_our_side_of_the_table_exists() -> None:
    ours = [row.ours for row in EQUIVALENTS]
    assert set(ours) <= TrainConfig.model_fields.keys()
    assert len(ours) == len(set(ours)), "a setting stands there twice"
    assert OTHER_NAMES.keys() & TrainConfig.model_fields.keys() == set()


@pytest.mark.parametrize(("theirs", "ours"), OTHER_NAMES.items())
def test_their_name_leads_to_ours(theirs: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{theirs}'; it is called '{ours}' here$"):
        TrainConfig(**{"images": "photos", "class_word": "dog", theirs: 1})
