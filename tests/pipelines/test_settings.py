"""Options, recipe and KEY=VALUE become one set of settings; the later wins."""

from pathlib import Path
from typing import Any

import pytest

from dreamtune.errors import ConfigError, RunFolderError
from dreamtune.pipelines.train.options import run_folder, train_config
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
    with pytest.raises(ConfigError, match="omit --config"):
        train_config({}, [], recipe=tmp_path / "config.yaml", resume=tmp_path)
    with pytest.raises(RunFolderError, match="no run to resume"):
        train_config({}, [], resume=tmp_path / "none")


def test_values_are_yaml() -> None:
    texts = [
        "steps=2",
        "prior = false",
        "snr_gamma=",
        "sample_prompts=[x, y]",
        "instance_prompt=a {token}=e",
        "lr=1e-5",
    ]
    config = train_config(NEEDED, texts)
    assert (config.steps, config.prior, config.snr_gamma, config.lr) == (2, False, None, 1e-5)
    assert (config.sample_prompts, config.instance_prompt) == (("x", "y"), "a {token}=e")


def test_entries_of_a_mapping_leave_the_others(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: lokr\nmethod_options: {factor: 4, dropout: 0.5}\n")
    config = train_config(NEEDED, ["method_options.dropout=0.1", "method_options.rslora=true"], recipe=recipe)
    assert config.method_options == {"factor": 4, "dropout": 0.1, "rslora": True}
    assert train_config(NEEDED, ["method_options.factor=2"]).method_options == {"factor": 2}
    assert train_config(NEEDED, ["method_options={}"], recipe=recipe).method_options == {}


@pytest.mark.parametrize("text", ["steps", "=3", "method_options.=3"])
def test_what_is_no_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="use KEY=VALUE"):
        train_config(NEEDED, [text])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["steps=[1"], "not valid YAML"),
        (["targets=attn", "targets.x=1"], "targets is 'attn', which has no entries"),
        (["steps.x=1"], "steps = {'x': 1}: must be a whole number"),
        (["method_options.dropout=[1]"], r"method_options.dropout = \[1\]: must be true or false or a whole number or"),
        (["learning_rate=1"], "unknown setting 'learning_rate'; it is called 'lr' here"),
    ],
)
def test_bad_settings(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(NEEDED, texts)


def test_errors_name_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("network_dim: 4\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: unknown setting 'network_dim'; it is called 'rank' here"):
        train_config(NEEDED, [], recipe=recipe)
    recipe.write_text("lr: 1\nsteps: 5\nlr: 2\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml is not valid YAML at line 3: lr is set twice"):
        train_config(NEEDED, [], recipe=recipe)


def test_run_folder() -> None:
    config = TrainConfig(**NEEDED)
    assert run_folder(config, None, None, None) == Path("runs/my dog-lora")
    assert run_folder(config, "x", None, None) == Path("runs/x")
    assert run_folder(config, None, Path("a/b"), None) == Path("a/b")
    assert run_folder(config, None, None, Path("a/b")) == Path("a/b")
    for name in ("", "..", "a/b", "/a"):
        with pytest.raises(ConfigError, match="plain folder name"):
            run_folder(config, name, None, None)
    with pytest.raises(ConfigError, match="use only one of them"):
        run_folder(config, "x", Path("y"), None)
