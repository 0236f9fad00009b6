"""Settings: every mistake is one ConfigError that names the key and what to do."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamtune.adapters import METHODS
from dreamtune.errors import ConfigError
from dreamtune.training.config import _PRIVATE, TrainConfig
from dreamtune.training.presets import METHOD_PRESETS, PRESETS, preset

NEEDED: dict[str, Any] = {"images": "photos", "class_word": "dog"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": "x"}, "class_word is missing.*--class"),
        ({"class_word": "dog"}, "images is missing"),
        (NEEDED | {"class_word": "  "}, "class_word is empty"),
        (NEEDED | {"token": ""}, "token is empty"),
        (NEEDED | {"rnk": 4}, "unknown setting 'rnk'; did you mean 'rank'"),
        (NEEDED | {"learning_rat": 4}, "unknown setting 'learning_rat'"),
        (NEEDED | {"steps": 0}, "steps = 0: must be greater"),
        (NEEDED | {"steps": "many"}, "steps = 'many': must be a whole number$"),
        (NEEDED | {"masks": "maybe"}, "^masks = 'maybe': must be true or false or 'auto'$"),
        (NEEDED | {"method_options": {"dropout": []}}, r"method_options.dropout = \[\]: must be"),
        (NEEDED | {"lr": float("nan")}, "lr = nan"),
        (NEEDED | {"resolution": 50}, "multiple of 8; try 48"),
        (NEEDED | {"instance_prompt": "a {name} dog"}, "the only placeholders are {token} and {class}"),
        (NEEDED | {"instance_prompt": "a dog"}, "must contain {token}"),
        (NEEDED | {"class_prompt": "a {class"}, "class_prompt"),
        (NEEDED | {"class_prompt": "a {class:d}"}, "class_prompt = .*the only placeholders are {token} and {class}"),
        (NEEDED | {"instance_prompt": "a {token:{class}} dog"}, "the only placeholders are {token} and {class}"),
        (NEEDED | {"steps": 10, "warmup_steps": 10}, "less than steps"),
        (NEEDED | {"lr_schedule": "sine"}, "lr_schedule = 'sine'.*constant.*linear.*cosine"),
        (NEEDED | {"prompts": ["a {token} {class}", "a {class}"]}, "prompts = 'a {class}' must contain {token}"),
        (NEEDED | {"prompts": ["a {tokn}"]}, "prompts = .*the only placeholders are {token} and {class}"),
        (NEEDED | {"prompts": "a {token}"}, "prompts = 'a {token}': must be a list"),
        (NEEDED | {"caption_dropout": 1}, "caption_dropout = 1: must be less than 1"),
        (NEEDED | {"timestep_min": 5, "timestep_max": 5}, "timestep_min = 5 must be less than timestep_max = 5"),
        (NEEDED | {"debiased": True, "snr_gamma": 5}, "set only one of them"),
        (NEEDED | {"steps": -1, "batch_size": 0}, "steps = -1.*batch_size = 0"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainConfig(**values)
    assert "\n" not in str(caught.value)


def test_every_setting_is_documented() -> None:
    undocumented = [name for name, field in TrainConfig.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", [*PRESETS, "unheard-of"])
def test_presets_fill_only_what_was_not_set(family: str, method: str) -> None:
    config = TrainConfig(**NEEDED, method=method, steps=7, lr=0.5).with_presets(family)
    assert (config.steps, config.lr) == (7, 0.5)
    expected = {key: value for key, value in preset(family, method).items() if key not in ("steps", "lr")}
    if "warmup_steps" in expected:
        expected["warmup_steps"] = min(expected["warmup_steps"], 6)
    options = expected.pop("method_options", {})
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.method_options.items() >= options.items()


def test_what_is_private_is_a_setting() -> None:
    """A misspelt or former name there would let a path of this machine into adapter files."""
    assert set(_PRIVATE) <= TrainConfig.model_fields.keys()


def test_every_preset_is_of_a_method_and_a_family() -> None:
    assert METHOD_PRESETS.keys() == PRESETS.keys()
    assert {method for rows in METHOD_PRESETS.values() for method in rows} <= METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_complete_settings_leave_nothing_to_the_method(method: str) -> None:
    config = TrainConfig(**NEEDED, method=method).with_presets("sd1")
    assert {"rank": config.rank, "alpha": config.alpha} | config.method_options == config.method_config().to_dict()


def test_another_rank_keeps_the_scale_that_the_learning_rate_is_for() -> None:
    scale = METHOD_PRESETS["sd1"]["loha"]["alpha"] / METHOD_PRESETS["sd1"]["loha"]["rank"]
    assert TrainConfig(**NEEDED, method="loha", rank=2).with_presets("sd1").alpha == 2 * scale != 2
    assert TrainConfig(**NEEDED, method="loha", rank=2, alpha=1.5).with_presets("sd1").alpha == 1.5
    assert TrainConfig(**NEEDED, rank=2).with_presets("sd1").alpha == 2


def test_presets_fill_single_options_of_a_method() -> None:
    config = TrainConfig(**NEEDED, method="lokr", method_options={"dropout": 0.5}).with_presets("sd1")
    assert (config.method_options["dropout"], config.method_options["factor"]) == (0.5, 8)
    config = TrainConfig(**NEEDED, method="lokr", method_options={"factor": 2}).with_presets("sd1")
    assert config.method_options["factor"] == 2


def test_rank_has_one_place() -> None:
    with pytest.raises(ConfigError, match=r"method_options\.rank: set rank at the top level instead"):
        TrainConfig(**NEEDED, method_options={"rank": 3}).method_config()


def test_explicit_none_beats_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "sd1", {"snr_gamma": 5.0})
    assert TrainConfig(**NEEDED).with_presets("sd1").snr_gamma == 5.0
    assert TrainConfig(**NEEDED, snr_gamma=None).with_presets("sd1").snr_gamma is None


def test_yaml_reads_back_equal_and_complete(tmp_path: Path) -> None:
    config = TrainConfig(**NEEDED, lr=1e-5, snr_gamma=5, sample_prompts=("a {token} {class} at sea",), rank=4)
    config = config.with_presets("pocket")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = TrainConfig.load(tmp_path / "config.yaml")
    assert again == config
    assert again.with_presets("sd1") == config, "a recorded run must not change with the presets"


def test_recipe_with_overrides(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("class_word: dog\nlr: 1e-4\nsteps: 50\n")  # YAML reads 1e-4 as text
    config = TrainConfig.load(recipe, images="photos", steps=60)
    assert (config.lr, config.steps) == (1e-4, 60)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_word: dog\nstep: 4\n", "recipe.yaml: .*unknown setting 'step'; did you mean 'steps'"),
        ("a: [1\n", "not valid YAML at line"),
        ("- 1\n", "key: value"),
        ("", "class_word is missing"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.load(recipe)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        TrainConfig.load(tmp_path / "none.yaml")


def test_settings_need_no_torch() -> None:
    code = "import sys, dreamtune.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", 10**8, "steps = 100000000: must be less than or equal to 10000000"),
        ("steps", 10**400, "steps = a number of 1329 bits is too large"),
        ("batch_size", 5000, "batch_size = 5000: must be less"),
        ("gradient_accumulation_steps", 10**6, "gradient_accumulation_steps = 1000000"),
        ("resolution", 80_000, "resolution = 80000"),
        ("rank", 10**6, "rank = 1000000"),
        ("prior_images", 10**7, "prior_images = 10000000"),
        ("alpha", float("inf"), "alpha = inf"),
        ("sample_prompts", ["a {token}"] * 2000, "sample_prompts = .*at most 1000 items"),
        ("sample_prompts", ["x"] * 10**6, "sample_prompts is too long or too deeply nested for a setting"),
        ("ranks", {str(n): 1 for n in range(20_000)}, "ranks is too long or too deeply nested"),
        ("class_word", "x" * 20_000, "class_word has 20000 characters: use at most 10000"),
        ("targets", "x" * 20_000, "targets has 20000 characters"),
    ],
)
def test_no_setting_is_beyond_all_use(name: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        TrainConfig(**{"images": Path("x"), "class_word": "dog", name: value})
    assert len(str(raised.value)) <= 1000


def test_nested_values_are_bounded() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(ConfigError, match="lr is too long or too deeply nested for a setting"):
        TrainConfig(images=Path("x"), class_word="dog", lr=deep)
