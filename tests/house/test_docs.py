"""What is written by docs/generate.py says what the settings and presets say now."""

from pathlib import Path

import pytest
import yaml

from docs.generate import ROOT, TABLES, recipes, with_tables
from dreamtune.training.config import TrainConfig
from dreamtune.training.reference import IN_RECIPES, preset_config, settings

STALE = "stale: run `make docs`"


def test_tables_are_those_of_the_settings() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text and f"<!-- /{name} -->" in text for name in TABLES)
    assert with_tables(text) == text, STALE


def test_every_setting_has_a_meaning() -> None:
    assert [setting.name for setting in settings()] == list(TrainConfig.model_fields)
    assert all(setting.meaning for setting in settings())


def test_there_are_exactly_the_recipes_of_the_presets() -> None:
    assert set((ROOT / "examples" / "recipes").rglob("*.*")) == set(recipes())


@pytest.mark.parametrize("path", recipes(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipe_is_complete_and_says_what_the_presets_say(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == recipes()[path], STALE
    config = TrainConfig.load(path, images="pictures", class_word="class")
    preset = preset_config(path.parent.name, path.stem)
    assert {name: getattr(config, name) for name in IN_RECIPES} == {name: getattr(preset, name) for name in IN_RECIPES}
    assert config.with_presets(path.parent.name) == preset
    assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() == set(IN_RECIPES)
