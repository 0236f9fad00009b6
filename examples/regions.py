"""`python examples/regions.py [--out regions] [--n 4]`: two subjects in one picture, each in its own region.

Trains an adapter for each of two sample subjects (unless that was done), and draws both from the same noise in every
way that `dreamtune generate` has: side by side, by turns, by the mean of predictions, in regions of one pass, and in
passes of their own. Writes <out>/regions.png, a row for each way, and the pictures that it is made of.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig

SUBJECTS = Path(__file__).parent / "subjects"
PAIR = {"cat": "sks", "robot": "xyz"}
"""Sample subject and class word -> its token."""
PLACES = ("0.05,0.35,0.45,1", "0.55,0.35,0.95,1")
CONTEXT = "on the beach"


def adapter(name: str, token: str, out: Path) -> Path:
    """The adapter of a sample subject, trained if it is not there yet."""
    run = out / name
    if not (run / "adapter.safetensors").exists():
        config = TrainConfig(images=SUBJECTS / name, class_word=name, token=token)
        train(config.with_presets("pocket"), run)
    return run / "adapter.safetensors"


def ways(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Label -> what generate is to do."""
    first, second = (f"a {token} {name}" for name, token in PAIR.items())
    both = {
        "prompts": [f"{first} on the left and {second} on the right {CONTEXT}"],
        "adapters": [str(file) for file in files],
    }
    cat, robot = PAIR
    scene = f"a {cat} on the left and a {robot} on the right {CONTEXT}"
    words = (f"{first} {CONTEXT}", f"{second} {CONTEXT}")
    # a pass of its own lays out the whole picture by its prompt: that has to say where its subject is
    scenes = (
        f"{first} on the left and a {robot} on the right {CONTEXT}",
        f"{second} on the right and a {cat} on the left {CONTEXT}",
    )
    return {
        "the base": {"prompts": [scene]},
        "side by side": both,
        "by turns (switch)": {**both, "mode": "switch"},
        "mean of predictions (composite)": {**both, "mode": "composite"},
        "regions, one pass": {"prompts": [scene], "regions": regions(files, words, PLACES)},
        "regions, the other way round": {
            "prompts": [f"a {robot} on the left and a {cat} on the right {CONTEXT}"],
            "regions": regions(files, words, PLACES[::-1]),
        },
        "regions, a pass each (blend)": {
            "prompts": [scene],
            "regions": regions(files, scenes, PLACES),
            "mode": "blend",
        },
    }


def regions(files: list[Path], prompts: tuple[str, ...], places: tuple[str, ...]) -> list[str]:
    """A region for each adapter, as generate takes them."""
    return [f"{file}@{place}={prompt}" for file, place, prompt in zip(files, places, prompts, strict=True)]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("regions"))
    parser.add_argument("--n", type=int, default=4, help="pictures in each way")
    args = parser.parse_args()
    files = [adapter(name, token, args.out) for name, token in PAIR.items()]
    rows = {}
    for number, (label, how) in enumerate(ways(files).items()):
        result = generate(GenerateConfig(**how, n=args.n), args.out / f"pictures-{number}")
        rows[label] = [Image.open(path).convert("RGB") for path in result.files]
        print(f"{label:34} {result.seconds_drawing:.1f} s")
    note = "the same noise in every row"
    sheet(rows, [f"seed {seed}" for seed in range(args.n)], note).save(args.out / "regions.png")
    print(args.out / "regions.png")


if __name__ == "__main__":
    main()
