"""Options of commands are the fields of their configs: name, help and default stand once."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import Field
from typer.core import TyperGroup

from dreamtune.config import Config
from dreamtune.errors import ConfigError
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.cli import app
from dreamtune.pipelines.cli.from_config import options_of
from dreamtune.pipelines.evaluate.config import EvaluateConfig
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.train.mask_config import MaskConfig
from dreamtune.training.config import TrainConfig

CONFIGS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "generate": GenerateConfig,
    "fuse": FuseConfig,
    "analyze": AnalyzeConfig,
    "evaluate": EvaluateConfig,
    "mask": MaskConfig,
}
OTHERWISE = {"method_options", "ranks", "captions"}
"""Mappings, which --set sets, and what a file holds."""


def commands() -> dict[str, Any]:
    group = typer.main.get_command(app.build())
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_is_an_option_with_its_own_words(name: str) -> None:
    parameters = {parameter.name: parameter for parameter in commands()[name].params}
    for field, about in CONFIGS[name].model_fields.items():
        if field in OTHERWISE or (name, field) == ("fuse", "prompts"):
            continue
        shown: Any = parameters[field]
        text = " ".join((about.description or "").split()).replace("[", "\\[")
        assert text and shown.help.startswith(text), field


def test_defaults_and_presets_are_shown() -> None:
    shown: dict[str | None, Any] = {it.name: it for it in commands()["train"].params}
    assert shown["steps"].help.endswith("(800; pocket 700)")
    assert shown["token"].help.endswith("(sks)")
    assert "lora-dash" in shown["method"].help


class Small(Config):
    """Of every kind."""

    names: tuple[str, ...] = Field(default=(), max_length=3)
    """Some names."""
    share: float | None = Field(default=None, gt=0)
    """A share."""
    bright: bool = False
    """Whether it is bright."""
    place: Path | None = None
    """Where it is."""
    table: dict[str, int] = Field(default_factory=dict)
    """What no option can say."""


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["--name", "a", "--name", "b"], {"names": ["a", "b"]}),
        (["--share", "0.5", "--bright"], {"share": 0.5, "bright": True}),
        (["--no-bright", "--place", "x/y"], {"bright": False, "place": Path("x/y")}),
    ],
)
def test_what_is_given_reaches_the_command(words: list[str], given: dict[str, Any]) -> None:
    found: list[dict[str, Any]] = []

    @options_of(Small, flags={"names": "--name"})
    def command(given: dict[str, Any], loud: bool = False) -> None:
        """Do it."""
        found.append(given)
        Small(**given)

    program = typer.Typer()
    program.command()(command)
    typer.main.get_command(program).main(words, standalone_mode=False)
    assert found == [given]


def test_values_are_checked_by_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["train", "photos", "--class", "dog", "--caption-dropout", "2"]) == 2
    assert "caption_dropout = 2" in capsys.readouterr().err


def test_the_list_of_commands_is_that_of_the_commands() -> None:
    assert set(commands()) == set(app.COMMANDS)
    stubs = typer.main.get_command(app.build([]))
    assert isinstance(stubs, TyperGroup)
    assert {name: it.get_short_help_str(200) for name, it in stubs.commands.items()} == app.COMMANDS


def test_former_names_are_read_with_a_remark() -> None:
    given: dict[str, Any] = {"images": "x", "class_word": "dog"}
    former: dict[str, Any] = given | {"accumulation": 4}
    both: dict[str, Any] = former | {"gradient_accumulation_steps": 2}
    config = TrainConfig(**former)
    assert config.gradient_accumulation_steps == 4
    assert config.remarks == ("accumulation is now called gradient_accumulation_steps: the old name still works",)
    assert TrainConfig(**given).remarks == ()
    with pytest.raises(ConfigError, match="accumulation is now called gradient_accumulation_steps, which is set too"):
        TrainConfig(**both)
