"""Imports run one way, and every layer keeps to the libraries it may need."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.house.tree import ROOT, imports, modules

LAYERS = (
    ("pocket.evaluate",),  # programs, started by hand: they may use everything below and are used by nothing
    ("pocket.pretrain",),
    ("ui",),
    ("pipelines",),
    ("training", "generation", "fusion", "analysis", "evaluation"),
    ("data",),
    ("models",),
    ("adapters", "pocket"),
    ("config",),
    ("plain_yaml",),
    ("storage", "leftovers"),
    ("errors",),
    ("text", "words", "names"),
)
"""From the top down. A module may import from its own package and from lower layers."""

LIBRARIES = {
    "errors": set(),
    "text": set(),
    "storage": set(),
    "leftovers": {"psutil"},
    "words": set(),
    "names": set(),
    "config": {"pydantic", "yaml"},
    "plain_yaml": {"yaml"},
    "adapters": {"torch", "safetensors", "regex"},
    "pocket.world": {"numpy", "PIL"},
}
"""Layers that must stay usable with little installed."""


def part(module: str, known: set[str]) -> str | None:
    """The longest name in `known` that `module` belongs to; none for dreamtune itself."""
    pieces = module.split(".")[1:]
    return next((name for n in range(len(pieces), 0, -1) if (name := ".".join(pieces[:n])) in known), None)


def test_every_module_has_its_place() -> None:
    known = {name for layer in LAYERS for name in layer}
    assert [m for m in modules() if m != "dreamtune" and part(m, known) is None] == []


def test_imports_run_one_way() -> None:
    height = {name: level for level, layer in enumerate(reversed(LAYERS)) for name in layer}
    wrong = []
    for module, file in modules().items():
        here = part(module, set(height))
        for line, target in imports(module, file):
            there = part(target, set(height)) if target.startswith("dreamtune.") else None
            if there and there != here and (here is None or height[there] >= height[here]):
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_libraries_of_the_lower_layers() -> None:
    wrong = []
    for module, file in modules().items():
        here = part(module, set(LIBRARIES))
        for line, target in imports(module, file):
            library = target.partition(".")[0]
            if here and library not in {"dreamtune", *sys.stdlib_module_names, *LIBRARIES[here]}:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {library}")
    assert not wrong, "\n".join(wrong)


def test_only_the_interface_knows_gradio() -> None:
    users = {m for m, file in modules().items() for _, target in imports(m, file) if target.split(".")[0] == "gradio"}
    assert {m for m in users if not m.startswith("dreamtune.ui")} == set()


def test_every_library_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [
        d for name, extra in project["optional-dependencies"].items() for d in extra if name not in ("test", "lint")
    ]
    declared = {distribution(d) for d in [*project["dependencies"], *extras]}
    owners = packages_distributions()
    wrong = set()
    for module, file in modules().items():
        for _, target in imports(module, file):
            library = target.partition(".")[0]
            if library in {"dreamtune", *sys.stdlib_module_names}:
                continue
            if not declared & {distribution(owner) for owner in owners.get(library, [library])}:
                wrong.add(f"{module} imports {library}")
    assert not wrong, "\n".join(sorted(wrong))


def distribution(requirement: str) -> str:
    """The normalised project name at the start of a requirement."""
    match = re.match(r"[\w.-]+", requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()
