"""The inputs of the fuzzer, each made anew by its number alone.

`python -m tests.fuzz.cases KIND NUMBER FOLDER` writes one, KIND being files or recipes, and says what to do with it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.fuzz import mutations, recipes
from tests.fuzz.seeds import write_seeds

_RECIPES = Path(__file__).parents[2] / "examples" / "recipes" / "sd1"


def write_file(number: int, seeds: Sequence[Path], folder: Path) -> Path:
    """Write the damaged adapter file, or folder, of that number."""
    random = Random(f"files-{number}")
    seed = random.choice(seeds)
    path = folder / f"{number}{seed.suffix}"
    mutations.mutated(seed, path, random)
    return path


def write_recipe(number: int, folder: Path) -> Path:
    """Write the damaged recipe of that number."""
    from dreamtune.training.config import TrainConfig

    random = Random(f"recipes-{number}")
    path = folder / f"{number}.yaml"
    path.write_bytes(recipes.mutated(random.choice(_recipes()), list(TrainConfig.model_fields), random))
    return path


def train_command(recipe: Path, photos: Path, base: Path) -> list[str]:
    """What is done with a recipe."""
    given = ["train", str(photos), "--class", "dog", "--base", str(base), "--device", "cpu", "--dry-run"]
    return [*given, "--out", str(recipe.with_suffix("")), "--config", str(recipe)]


def _recipes() -> list[str]:
    """Those of the examples for SD 1.x, without comments, of a rank that the tiny base can have."""
    return [
        re.sub(r"^rank: .*", "rank: 2", re.sub(r"(?m)\s*(^|  )#.*", "", path.read_text()).strip(), flags=re.MULTILINE)
        for path in sorted(_RECIPES.glob("*.yaml"))
    ]


def _main(kind: str, number: str, folder: str) -> None:
    from tests.tiny_models import pictures, tiny_folder

    place = Path(folder)
    place.mkdir(parents=True)
    base = tiny_folder(place / "tiny")
    if kind == "files":
        (place / "seeds").mkdir()
        print("dreamtune inspect", write_file(int(number), write_seeds(base, place / "seeds"), place))
    else:
        print("dreamtune", *train_command(write_recipe(int(number), place), pictures(place / "dog"), base))


if __name__ == "__main__":
    _main(*sys.argv[1:])
