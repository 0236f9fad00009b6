"""Recipes that are none: whatever stands there, the answer is one short line, at once."""

import os
import time
from pathlib import Path

import pytest

from dreamtune.errors import ConfigError
from dreamtune.pipelines.cli.app import main
from dreamtune.plain_yaml import parse_yaml, read_yaml
from dreamtune.training.config import TrainConfig

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join('*' + chr(ord(c) - 1) for _ in range(9))}]\n" for c in "bcdefgh"
)
BAD = {
    "aliases": (BOMB + "lr: *h\n", "at line 2: \\*a is an alias, which is not supported: write the value out"),
    "endless": ("a: &a [*a]\n", "at line 1: \\*a is an alias"),
    "merge": ("a: &a {b: 1}\nc:\n  <<: *a\n", "at line 3: \\*a is an alias"),
    "int": ("steps: !!int foo\n", "at line 1: 'foo' is not a whole number"),
    "empty int": ('steps: !!int ""\n', "at line 1: '' is not a whole number"),
    "bool": ("flip: !!bool maybe\n", "at line 1: 'maybe' is not true or false"),
    "float": ("lr: !!float x\n", "at line 1: 'x' is not a number"),
    "list for a number": ("lr: !!float [1]\n", "expected a scalar node"),
    "list for a mapping": ("lr: !!map [1, 2]\n", "expected a mapping node"),
    "digits": ("steps: " + "9" * 5000 + "\n", "at line 1: '9+...9+' is not a whole number"),
    "hexadecimal": ("steps: 0x" + "f" * 5000 + "\n", "is not a whole number"),
    "base 60": ("steps: " + "1:" * 100_000 + "1\n", "is not a whole number"),
    "depth": ("a: " + "[" * 3000 + "]" * 3000 + "\n", "at line 1: nested too deeply"),
    "nested mappings": ("{a: " * 3000, "at line 1: nested too deeply"),
    "binary": ("a: !!binary x\n", "is not a plain value"),
    "python": ("a: !!python/object/apply:os.system [id]\n", "is not a plain value"),
    "set": ("a: !!set {b}\n", "is not a plain value"),
    "long tag": ("a: !<" + "x" * 5000 + "> b\n", "is not a plain value"),
    "control": ("a: \x01\n", "special characters are not allowed"),
    "escape": ('a: "\\U99999999"\n', "not valid YAML"),
    "key": ("? [a]\n: b\n", "unhashable key"),
    "twice": ("x" * 200_000 + ": 1\n" + "x" * 200_000 + ": 1\n", "mapping values are not allowed here"),
    "values": ("a: [" + "[]," * 100_000 + "]\n", "at line 1: more than 10000 values"),
    "list": ("- a\n", "must contain 'key: value' lines, not list"),
    "number as key": ("1: a\n", "must contain 'key: value' lines"),
}
UNUSABLE = {
    "date": ("token: 2024-13-45\n", "images is missing"),
    "zero": ('images: "a\\0b"\nclass_word: dog\n', r"images = 'a\\x00b' contains an invalid character"),
    "half": ('images: a\nclass_word: "\\ud800"\n', "contains an invalid character"),
    "within": (
        'images: a\nclass_word: dog\nsample_prompts: [a, "b\\0"]\n',
        "sample_prompts = .*contains an invalid character",
    ),
    "key": (
        'images: a\nclass_word: dog\nmethod_options: {"a\\0": 1}\n',
        "method_options = .*contains an invalid character",
    ),
    "value": ("images: a\nclass_word: dog\nlr: [" + "[x]," * 4_000 + "]\n", "lr = .*must be a number"),
    "keys": ("".join(f"k{n}: 1\n" for n in range(4_000)), "and 3997 more errors"),
    "entries": ("images: a\nclass_word: dog\nsample_prompts: [" + "[]," * 4_000 + "]\n", "more errors"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_recipe_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    text, message = BAD[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=message) as raised:
        read_yaml(recipe)
    assert time.monotonic() - begin < 2
    assert len(str(raised.value)) <= 1000 and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", UNUSABLE)
def test_values_that_cannot_be_used_are_told_in_a_line(name: str, tmp_path: Path) -> None:
    text, message = UNUSABLE[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        TrainConfig.load(recipe)
    assert len(str(raised.value)) <= 1000 and "\n" not in str(raised.value)


def test_dates_are_text_and_other_values_what_they_are() -> None:
    text = "a: 2024-13-45\nb: 2001-01-01\nc: 3\nd: 0.5\ne: [x, null, true]\nf: {g: 1_000}\nh: ="
    assert parse_yaml(text) == {
        "a": "2024-13-45", "b": "2001-01-01", "c": 3, "d": 0.5, "e": ["x", None, True], "f": {"g": 1000}, "h": "="
    }  # fmt: skip


def test_a_recipe_is_a_regular_file_of_a_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="cannot read the recipe .*: not a regular file"):
            read_yaml(path)
    with open(tmp_path / "sparse.yaml", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="cannot read the recipe .*: larger than 1 MiB"):
        read_yaml(tmp_path / "sparse.yaml")


@pytest.mark.parametrize(
    "setting", ["steps=!!int foo", "lr=*a", f"steps={'9' * 5000}", 'token="a\\0b"', 'token="\\ud800"']
)
def test_the_command_line_refuses_the_same(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pictures", "--class", "dog", "--set", setting]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: ") and told.count("\n") == 1 and len(told) < 1010
