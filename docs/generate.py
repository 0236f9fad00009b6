"""`python docs/generate.py`: write the recipes in examples/recipes/ and the tables of docs/training.md anew.

They are made of the settings' own descriptions and of the presets, so that neither can say something else.
"""

from __future__ import annotations

import re
from pathlib import Path

from dreamtune.adapters import METHODS
from dreamtune.training import reference

ROOT = Path(__file__).parents[1]
TABLES = {
    "settings": reference.settings_table,
    "methods": reference.methods_table,
    "equivalents": reference.equivalents_table,
    "habits": reference.habits_table,
}


def recipes() -> dict[Path, str]:
    """Path and text of each recipe."""
    folder = ROOT / "examples" / "recipes"
    return {
        folder / family / f"{method}.yaml": reference.recipe(family, method)
        for family in reference.FAMILIES
        for method in METHODS
    }


def with_tables(text: str) -> str:
    """A document with each table between its marks <!-- NAME --> and <!-- /NAME --> made anew."""
    for name, table in TABLES.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        made = table().replace("\\", r"\\")
        text = re.sub(marks, rf"\1{made}\2", text, flags=re.DOTALL)
    return text


def main() -> None:
    """Entry point."""
    for path, text in recipes().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    document = ROOT / "docs" / "training.md"
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
