"""`python examples/two_subjects.py [--out two-subjects]`: two learned subjects, each alone, and both in one picture.

Trains an adapter for each of two sample subjects (unless that was done), draws each alone in four places, and both
there by `--layout auto --mode collage`: no boxes are given. Writes <out>/two-subjects.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from PIL import Image

from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig

SUBJECTS = Path(__file__).parent / "subjects"
PAIR = {"cat": "sks", "robot": "xyz"}
"""Sample subject and class word -> its token."""
PLACES = ("on the beach", "in the snow", "in the city", "in a room")


def adapter(name: str, token: str, out: Path) -> Path:
    """The adapter of a sample subject, trained if it is not there yet."""
    run = out / name
    if not (run / "adapter.safetensors").exists():
        train(TrainConfig(images=SUBJECTS / name, class_word=name, token=token), run)
    return run / "adapter.safetensors"


def drawn(prompt: str, files: list[Path], folder: Path, layout: Literal["none", "auto"]) -> list[Image.Image]:
    """A picture of `prompt` in each place, with these adapters."""
    found = []
    for number, place in enumerate(PLACES):
        config = GenerateConfig(
            prompts=(f"{prompt} {place}",),
            adapters=tuple(map(str, files)),
            layout=layout,
            mode="routed" if layout == "none" else "collage",
            n=1,
        )
        result = generate(config, folder / str(number))
        found += [Image.open(path).convert("RGB") for path in result.files]
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("two-subjects"))
    args = parser.parse_args()
    files = {name: adapter(name, token, args.out) for name, token in PAIR.items()}
    rows: dict[str, list[Image.Image]] = {}
    for name in PAIR:
        paths = sorted((SUBJECTS / name).glob("*.png"))[: len(PLACES)]
        rows[f"photographs of the {name}"] = [Image.open(path).convert("RGB") for path in paths]
    for name, token in PAIR.items():
        rows[f"a {token} {name}"] = drawn(f"a {token} {name}", [files[name]], args.out / f"alone-{name}", "none")
    (first, one), (second, other) = PAIR.items()
    prompt = f"a {one} {first} and a {other} {second}"
    rows[f"{prompt}: layout auto, a collage"] = drawn(prompt, list(files.values()), args.out / "both", "auto")
    sheet(rows, PLACES, "no boxes given; nothing chosen: seed 0").save(args.out / "two-subjects.png")
    print(args.out / "two-subjects.png")


if __name__ == "__main__":
    main()
