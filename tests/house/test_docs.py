"""The documentation: generated parts are current, every page is in the index, links resolve, pages stay short."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docs.generate import DOCS, PAGES, ROOT, TABLES, recipes, with_tables
from dreamtune.names import FUSIONS, METHODS, SAMPLERS
from dreamtune.training.config import TrainConfig
from dreamtune.training.reference import IN_RECIPES, preset_config, settings

STALE = "stale: run `make docs`"
INDEX = DOCS / "README.md"
MOST_WORDS = 1500
LONG = {"log.md", "results.md", "settings.md", "other-trainers.md"}
"""Pages that may be longer: a lab book, and what is generated."""
LINKED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> Iterator[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    for heading in re.findall(r"(?m)^#+ (.+)$", prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_page_is_in_the_index_once_with_a_line_of_its_own() -> None:
    listed = re.findall(r"(?m)^\* \[[^\]]+\]\((\w[\w-]*\.md)\): .+\.$", INDEX.read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md") if page != INDEX)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_and_anchors_resolve(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", [page for page in LINKED if page.name not in LONG], ids=name_of)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").split()) < MOST_WORDS, "split the page by task"


def test_names_are_documented() -> None:
    for page, names in (("methods", METHODS), ("fusion", FUSIONS), ("generate", SAMPLERS)):
        text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
        assert [name for name in names if f"`{name}`" not in text] == [], page


def test_tables_are_those_of_the_settings() -> None:
    assert sorted(name for names in PAGES.values() for name in names) == sorted(TABLES)
    for page, names in PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert all(f"<!-- {name} -->\n" in text and f"<!-- /{name} -->" in text for name in names), page.name
        assert with_tables(text) == text, STALE


def test_every_setting_has_a_meaning() -> None:
    assert [setting.name for setting in settings()] == list(TrainConfig.model_fields)
    assert all(setting.meaning for setting in settings())


def test_there_are_exactly_the_recipes_of_the_presets() -> None:
    assert set((ROOT / "examples" / "recipes").rglob("*.*")) == set(recipes())


@pytest.mark.parametrize("path", recipes(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipe_is_complete_and_says_what_the_presets_say(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == recipes()[path], STALE
    config = TrainConfig.load(path, images="pictures", class_word="class")
    preset = preset_config(path.parent.name, path.stem)
    assert {name: getattr(config, name) for name in IN_RECIPES} == {name: getattr(preset, name) for name in IN_RECIPES}
    assert config.with_presets(path.parent.name) == preset
    assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() == set(IN_RECIPES)
