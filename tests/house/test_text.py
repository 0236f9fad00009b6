"""What others wrote is shown inert and short, everywhere: a name is no command to a terminal."""

import ast
import json

import pytest

from dreamtune.errors import ConfigError
from dreamtune.pipelines import console
from dreamtune.pipelines.progress import Progress
from dreamtune.text import bounded, inert, shown
from tests.house.tree import ROOT

ACTING = {
    "\x1b]0;owned\x07\x1b[31mX": r"\x1b]0;owned\x07\x1b[31mX",
    "a\rb\x7f\x9b31m": r"a\rb\x7f\x9b31m",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe": r"\u202egpj.exe",
    "\N{LINE SEPARATOR}\ud800": r"\u2028\ud800",
    "\U000e0041": r"\U000e0041",
}


@pytest.mark.parametrize("text", ACTING)
def test_what_acts_is_shown_as_its_number(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inert(text) == ACTING[text]
    assert str(ConfigError(f"no file {text}")) == f"no file {ACTING[text]}"
    assert Progress("remark", message=text).line() == f"remark: {ACTING[text]}"
    console.say(text)
    console.print_json({"name": text})
    printed, as_json = capsys.readouterr().out.splitlines()
    assert printed == ACTING[text] and as_json.isascii() and as_json.isprintable()
    assert json.loads(as_json) == {"name": text}


def test_letters_of_all_languages_stay() -> None:
    emoji = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"
    for text in ("chat café 猫 ねこ", "a\N{NO-BREAK SPACE}b", emoji, "a\nb"):
        assert inert(text) == text


def test_messages_end() -> None:
    assert bounded("x" * 1000) == "x" * 1000
    assert str(ConfigError("head " + "x" * 10**6 + " do this")).startswith("head xx")
    assert str(ConfigError("head " + "x" * 10**6 + " do this")).endswith("xx do this")
    assert len(str(ConfigError("x" * 10**6))) == len(Progress("remark", message="x" * 10**6).line()) == 1000


def test_values_are_shown_short() -> None:
    for value in ("x" * 10**6, 10**5000, [["x" * 99] * 99] * 99, {"a": {"b": ["c" * 999]}}, b"x" * 999):
        assert 0 < len(shown(value)) <= 200


def test_ordinary_values_are_shown_as_python_writes_them() -> None:
    for value in ("a b", 12, 1e-4, None, [1, "x"], {"a": 1}, -(10**20)):
        assert shown(value) == repr(value)


def test_nothing_is_printed_but_by_say() -> None:
    files = [file for folder in ("pipelines", "ui") for file in (ROOT / folder).rglob("*.py")]
    allowed = {ROOT / "pipelines" / "console.py", ROOT / "pipelines" / "progress.py"}
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files
        if file not in allowed
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, wrong
