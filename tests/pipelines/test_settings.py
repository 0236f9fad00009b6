"""Options, recipe and KEY=VALUE become one set of settings; the later wins."""

from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import ConfigError, RunFolderError
from dreamtune.pipelines.settings import parse_settings, run_folder, train_config
from dreamtune.training.config import TrainConfig

NEEDED: dict[str, Any] = {"images": "photos/my dog", "class_word": "dog"}


def test_the_later_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("class_word: cat\nsteps: 10\nlr: 0.5\nseed: 3\n")
    config = train_config(NEEDED | {"steps": 20, "lr": 0.25}, ["lr=1e-3"], recipe=recipe)
    assert (config.class_word, config.steps, config.lr, config.seed) == ("dog", 20, 1e-3, 3)


def test_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(TrainConfig(**NEEDED, steps=7).to_yaml())
    assert train_config({}, [], resume=tmp_path) == TrainConfig(**NEEDED, steps=7)
    assert train_config({"steps": 9}, [], resume=tmp_path).steps == 9, "the pipeline tells that it differs"
    with pytest.raises(ConfigError, match="leave --config away"):
        train_config({}, [], recipe=tmp_path / "config.yaml", resume=tmp_path)
    with pytest.raises(RunFolderError, match="no run to resume"):
        train_config({}, [], resume=tmp_path / "none")


def test_values_are_yaml() -> None:
    texts = ["a=2", "b = false", "c=", "d=[x, y]", "m.dropout=0.1", "m.rslora=true", "e=a=b"]
    assert parse_settings(texts) == {
        "a": 2,
        "b": False,
        "c": None,
        "d": ["x", "y"],
        "m": {"dropout": 0.1, "rslora": True},
        "e": "a=b",
    }


@pytest.mark.parametrize("text", ["steps", "=3", "m.=3"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        parse_settings([text])


def test_contradicting_settings_and_bad_yaml() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_settings(["a=[1"])
    with pytest.raises(ConfigError, match=r"m is set both"):
        parse_settings(["m=3", "m.x=1"])


def test_run_folder() -> None:
    config = TrainConfig(**NEEDED)
    assert run_folder(config, None, None, None) == Path("runs/my dog-lora")
    assert run_folder(config, "x", None, None) == Path("runs/x")
    assert run_folder(config, None, Path("a/b"), None) == Path("a/b")
    assert run_folder(config, None, None, Path("a/b")) == Path("a/b")
    for name in ("", "..", "a/b", "/a"):
        with pytest.raises(ConfigError, match="plain folder name"):
            run_folder(config, name, None, None)
    with pytest.raises(ConfigError, match="give one of them"):
        run_folder(config, "x", Path("y"), None)
