"""No module imports itself by way of others, imports stand at the top of modules, and every module is used."""

import ast
from pathlib import Path

import pytest

from tests.house.tree import ROOT, imports, modules

MOST_INSIDE_FUNCTIONS = 120
"""Imports inside functions: so that the command line, the queue and the app start without torch, and no more."""
PROGRAMS = {
    "dreamtune.pocket.evaluate",  # python -m, as the Makefile has them
    "dreamtune.pocket.pretrain.__main__",
    "dreamtune.pipelines.cli.__main__",
    "dreamtune.pipelines.jobs.process",  # started by the worker
}


def graph() -> dict[str, set[str]]:
    """Module -> the modules it imports anywhere, for types only too."""
    known = modules()
    return {
        name: {target for _, full in imports(name, file) if (target := module_of(full, known)) not in (None, name)}
        for name, file in known.items()
    }  # pyright: ignore[reportReturnType]


def module_of(full: str, known: dict[str, Path]) -> str | None:
    """The module that the name imported from it is in."""
    return next((name for name in (full, full.rpartition(".")[0]) if name in known), None)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of more than one module that all reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            start = stack.index(name)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                found.append(sorted(component))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def test_no_imports_in_circles() -> None:
    assert circles(graph()) == []


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, [["b", "c"]]),
    ],
)
def test_circles_are_found(edges: dict[str, set[str]], found: list[list[str]]) -> None:
    assert circles(edges) == found


def inside_functions(file: Path) -> list[int]:
    """Lines of imports inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inner = {node.lineno for it in functions for node in ast.walk(it) if isinstance(node, (ast.Import, ast.ImportFrom))}
    return sorted(inner)


def test_imports_stand_at_the_top() -> None:
    found = {str(file.relative_to(ROOT)): lines for file in modules().values() if (lines := inside_functions(file))}
    count = sum(map(len, found.values()))
    assert count <= MOST_INSIDE_FUNCTIONS, f"{count}: {found}"


def test_every_module_is_used() -> None:
    """By another one, or as a program; `dreamtune` itself imports by name."""
    used = {target for targets in graph().values() for target in targets} | PROGRAMS
    packages = {name for name, file in modules().items() if file.name == "__init__.py"}
    assert sorted(modules().keys() - used - packages - by_name()) == []


def by_name() -> set[str]:
    """Modules whose full name stands in another one as text."""
    texts = {name: file.read_text(encoding="utf-8") for name, file in modules().items()}
    commands = {f"dreamtune.pipelines.cli.{file.stem}" for file in (ROOT / "pipelines" / "cli").glob("*.py")}
    named = {name for name in texts if any(f'"{name}"' in text for other, text in texts.items() if other != name)}
    return named | commands
