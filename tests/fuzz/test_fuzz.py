"""Whatever is in an adapter file or a recipe: done or one clear error, soon, in bounded memory. Reproducible by number.

A fault names its input; `python -m tests.fuzz.cases` writes it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bounded import Bounded
from tests.fuzz.cases import train_command, write_file, write_recipe
from tests.fuzz.seeds import write_seeds

FILES, RECIPES, AT_ONCE = 3000, 500, 250
USE = "tests.fuzz.use:use"


@pytest.fixture(scope="module")
def bounded() -> Iterator[Bounded]:
    with Bounded() as bounded:
        yield bounded


@pytest.fixture(scope="module")
def seeds(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_seeds(tiny, tmp_path_factory.mktemp("seeds"))


@pytest.mark.slow
def test_seeds_are_good(bounded: Bounded, seeds: list[Path], tiny: Path) -> None:
    """Of nine methods in up to four tools' forms, and all of them usable: damage is all that can be found."""
    assert len(seeds) >= 25
    for seed in seeds:
        outcome = bounded.call(USE, seed, tiny)
        assert (outcome.code, outcome.fault) == (0, None), seed.name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, FILES, AT_ONCE))
def test_damaged_adapter_files(first: int, bounded: Bounded, seeds: list[Path], tiny: Path, tmp_path: Path) -> None:
    faults, codes = {}, set()
    for number in range(first, first + AT_ONCE):
        path = write_file(number, seeds, tmp_path)
        outcome = bounded.call(USE, path, tiny)
        codes.add(outcome.code)
        if outcome.fault:
            faults[number] = outcome.fault
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    assert not faults
    assert codes == {0, 2}, "some damage is harmless, most is not"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, RECIPES, AT_ONCE))
def test_damaged_recipes(first: int, bounded: Bounded, tiny: Path, photos: Path, tmp_path: Path) -> None:
    faults, codes = {}, set()
    for number in range(first, first + AT_ONCE):
        recipe = write_recipe(number, tmp_path)
        outcome = bounded.run(*train_command(recipe, photos, tiny))
        codes.add(outcome.code)
        if outcome.fault:
            faults[number] = outcome.fault
        assert list(tmp_path.iterdir()) == [recipe], "a dry run writes nothing"
        recipe.unlink()
    assert not faults
    assert codes == {0, 2}, "some damage is harmless, most is not"
