"""How bases are drawn with stands in one table, which all that draws reads."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamtune.models.families import USUAL
from dreamtune.training.config import TrainConfig
from dreamtune.training.reference import FAMILIES
from tests.house.tree import ROOT

EXEMPT = {
    "dreamtune/models/families.py",
    "dreamtune/pocket/evaluate.py",  # an exam of the base with fixed settings, which its card tells
    "dreamtune/pocket/world/captions.py",  # what pocket was trained on
}


def sources() -> Iterator[tuple[str, ast.AST]]:
    for folder in ("dreamtune", "pipelines", "ui", "benchmarks", "examples", "docs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            if name not in EXEMPT:
                yield name, ast.parse(file.read_text(encoding="utf-8"))


def is_number(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value not in (0, 1, None)


def guidances(tree: ast.AST) -> Iterator[int]:
    """Lines in which something called guidance gets a number."""
    for node in ast.walk(tree):
        pairs: list[tuple[str | None, ast.AST | None]] = []
        if isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            defaults = [None] * (len(positional) - len(node.defaults)) + list(node.defaults)
            pairs = [(it.arg, value) for it, value in zip(positional, defaults, strict=True)]
            pairs += [(it.arg, value) for it, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(names)
                pairs += [(ast.unparse(name), value) for name, value in zip(names, values, strict=False)]
        elif isinstance(node, ast.Dict):
            pairs = [(str(getattr(key, "value", None)), it) for key, it in zip(node.keys, node.values, strict=True)]
        for name, value in pairs:
            number = value
            if isinstance(value, ast.Call):  # a field with a default
                number = next((it.value for it in value.keywords if it.arg == "default"), None)
            if name and "guidance" in name.lower() and is_number(number):
                yield getattr(value, "lineno", 0)


def test_the_scan_sees_every_way_to_write_it() -> None:
    wrong = [
        "f(guidance=2.5)",
        "def f(guidance: float = 5.0): ...",
        "def f(*, guidance_scale=3): ...",
        "STEPS, GUIDANCE = 20, 2.5",
        "_GUIDANCE = 5.0",
        "row = {'guidance': 3.0}",
        "class A:\n    guidance: float = Field(default=5.0)",
    ]
    assert [len(list(guidances(ast.parse(text)))) for text in wrong] == [1] * len(wrong)
    assert not list(guidances(ast.parse("GUIDANCE = USUAL['pocket'].guidance; f(guidance=it.guidance, steps=20)")))


def test_no_other_place_has_a_guidance_of_its_own() -> None:
    assert [f"{name}:{line}" for name, tree in sources() for line in guidances(tree)] == []


def test_no_other_place_has_a_prompt_form_of_its_own() -> None:
    found = []
    for name, tree in sources():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found += [f"{name}:{node.lineno}"] if "a photo of" in node.value else []
    assert found == []


@pytest.mark.parametrize("family", USUAL)
def test_training_draws_and_asks_as_the_table_says(family: str) -> None:
    config = TrainConfig(images=Path("x"), class_word="dog").with_presets(family)
    usual = USUAL[family]
    assert (config.sampling_steps, config.guidance) == (usual.steps, usual.guidance)
    assert (config.instance_prompt, config.class_prompt) == (usual.subject, usual.thing)
    assert config.prompt(config.instance_prompt) == usual.prompt("sks", "dog")
    assert config.prompt(config.class_prompt) == usual.prompt("", "dog")


def test_every_family_has_a_row() -> None:
    assert USUAL.keys() == FAMILIES.keys()
    assert (USUAL["pocket"].steps, USUAL["pocket"].guidance) == (20, 2.5)
    pocket: Any = USUAL["pocket"]
    assert [pocket.prompt(*it) for it in (("sks", "dog"), ("sks", ""), ("", "dog"), ("", ""))] == [
        *("a sks dog", "a sks", "a dog", "a photo")
    ]
