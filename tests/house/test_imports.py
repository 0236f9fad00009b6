"""Importing is light, and what a package says it exports is there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import modules

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "gradio"}
LIGHT = (
    "dreamtune",
    "dreamtune.errors",
    "dreamtune.pocket",
    "dreamtune.training.config",
    "dreamtune.pipelines.cli.app",
)


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("name", LIGHT)
def test_heavy_libraries_wait_until_they_are_needed(name: str) -> None:
    assert set(fresh(f"import sys, {name}; print(*sys.modules)").split()) & HEAVY == set()


def test_import_takes_at_most_half_a_second() -> None:
    code = "import time; t = time.perf_counter(); import dreamtune; print(time.perf_counter() - t)"
    assert min(float(fresh(code)) for _ in range(3)) <= 0.5


def declares_exports(file: Path) -> bool:
    """Whether a module assigns `__all__`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


@pytest.mark.parametrize("name", [name for name, file in modules().items() if declares_exports(file)])
def test_exported_names_are_there(name: str) -> None:
    module = importlib.import_module(name)
    assert [export for export in module.__all__ if not hasattr(module, export)] == []
