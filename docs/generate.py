"""`python docs/generate.py`: regenerate the recipes in examples/recipes/ and the generated tables of the documentation.

They are made from the settings' own descriptions and the presets, so that they cannot disagree with them.
"""

from __future__ import annotations

import re
from pathlib import Path

from dreamtune.adapters import METHODS
from dreamtune.training import reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    DOCS / "settings.md": ("settings",),
    DOCS / "methods.md": ("methods",),
    DOCS / "other-trainers.md": ("equivalents", "habits"),
}
"""Page -> the tables between its marks."""
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
    """A page with each table between its marks <!-- NAME --> and <!-- /NAME --> regenerated."""
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
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
