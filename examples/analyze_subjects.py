"""`python examples/analyze_subjects.py [--out subjects] [--steps N]`: do alike subjects change alike directions?

Trains LoRA-Dash on four subjects of the embedded base's world, two dogs, a cat and a mug, with two seeds each, and
compares the eight adapters: seeds of one subject are the most that two adapters can have in common, the two dogs are
of one class. The report says whether the overlap falls in that order. Takes about eight trainings; run again to go on
after a stop.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import dreamtune
from dreamtune.pipelines.analyze.advice import ordering
from dreamtune.pipelines.pocket import draw_pocket
from dreamtune.pipelines.train.run import load_run_config, train
from dreamtune.training.config import TrainConfig

SUBJECTS = {"rex": (11, "dog"), "bella": (12, "dog"), "tom": (13, "cat"), "mug": (14, "mug")}
"""Name -> number of the pocket world, and class."""
SEEDS = (0, 1)


def trained(name: str, seed: int, out: Path, steps: int) -> Path:
    """The adapter of a subject from a seed: as it lies there, or trained, or trained on from where it was stopped."""
    number, cls = SUBJECTS[name]
    pictures, run = out / "pictures" / name, out / "runs" / f"{name}-{seed}"
    if not pictures.is_dir():
        draw_pocket(number, 5, pictures, cls)
    if (run / "report.json").is_file():  # the last that a training writes
        return run / "adapter.safetensors"
    if (run / "checkpoints").is_dir():
        return train(load_run_config(run), run, resume=True).adapter
    config = TrainConfig(images=pictures, class_word=cls, method="lora-dash", seed=seed, steps=steps, device="cpu")
    return train(config, run).adapter


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("subjects"))
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    pairs = [(name, seed) for name in SUBJECTS for seed in SEEDS]
    files = [trained(name, seed, options.out, options.steps) for name, seed in pairs]
    folder = options.out / "report"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call
    report = dreamtune.analyze(files, folder, subjects=[name for name, _ in pairs])
    for kind, figures in report.relations().items():
        print(
            f"{kind:16} {figures['pairs']:2} pairs share {figures['overlap']:.1%} ({figures['lowest_pair']:.1%} to "
            f"{figures['highest_pair']:.1%}), {figures['above_chance']:+.1%} above chance "
            f"({figures['above_chance_low']:+.1%} to {figures['above_chance_high']:+.1%} over layers)"
        )
    print(ordering(report))
    print(folder / "report.html")


if __name__ == "__main__":
    main()
