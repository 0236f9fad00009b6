"""`python -m benchmarks.personalization [--out DIR] [--subjects N] [--first N] [--set KEY=VALUE]...`: unseen subjects.

Trains an adapter with one recipe for each of N individuals of the pocket world, one class after the other, on five
photographs, and measures it against other renders of the same individual. Writes personalization.json and one grid:
a row per subject with its photographs, the base's class pictures, the adapter's on the same noise, and the class word
alone with the adapter on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.quality_work import base_digest
from dreamtune.adapters import AdapterFile
from dreamtune.evaluation import Personalization, measure_personalization
from dreamtune.models import load_base
from dreamtune.pipelines.train.run import train
from dreamtune.pocket import path, photographs
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import random_subject
from dreamtune.training.config import TrainConfig

FIRST_SEED = 7_000
"""Individuals from this seed on are used nowhere else."""
SHOWN = 6


def run(work: Path, number: int, cls: str, options: dict[str, Any]) -> tuple[dict[str, Any], list[Image.Image]]:
    """Train and measure individual `number`; returns its figures and its row of the grid."""
    subject = random_subject(Random(f"subject {FIRST_SEED + number}"), cls)
    photos = photographs(subject, 5, seed=FIRST_SEED + number)
    folder = work / f"photographs-{number}"
    folder.mkdir(parents=True)
    for i, photo in enumerate(photos):
        photo.save(folder / f"{i}.png")
    config = TrainConfig.model_validate({"images": folder, "class_word": cls, **options})
    began = time.perf_counter()
    result = train(config, work / f"run-{number}")
    base = load_base("pocket")
    with AdapterFile.load(result.adapter).attach(base.unet) as attached:
        measured = measure_personalization(base, attached, Evaluators.load(), subject, config.token)
    about = {"subject": FIRST_SEED + number, "class": cls, "color": subject.color, "pattern": subject.pattern}
    figures = about | measured.to_dict() | {"seconds": round(time.perf_counter() - began, 1)}
    return figures, _row(photos, measured)


def _row(photos: list[Image.Image], measured: Personalization) -> list[Image.Image]:
    figures = measured.figures
    lists = (photos[:4], figures.pictures_before[:SHOWN], figures.pictures_after[:SHOWN])
    return [picture for part in (*lists, figures.pictures_class[:4]) for picture in part]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over subjects and the worst subject fidelity."""
    names = ("subject_fidelity", "leak", "prompt_before", "prompt_after", "context_before", "context_after")
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in names}
    raised = sum(row["likeness"]["generated"] > row["likeness"]["base"] for row in rows)
    return means | {"raised_in": f"{raised} of {len(rows)}", "worst": min(row["subject_fidelity"] for row in rows)}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="number of the first individual")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the training")
    args = parser.parse_args()
    options = {key: json.loads(value) for key, _, value in (item.partition("=") for item in args.set)}
    classes = json.loads((path() / "training.json").read_text())["config"]["classes"]
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    grid: list[np.ndarray] = []
    with tempfile.TemporaryDirectory(prefix="dreamtune-") as temporary:
        for number in range(args.first, args.first + args.subjects):
            figures, pictures = run(Path(temporary), number, classes[number % len(classes)], options)
            rows.append(figures)
            grid.append(np.concatenate([np.asarray(p) for p in pictures], 1))
            print(json.dumps(figures), flush=True)
            Image.fromarray(np.concatenate(grid)).save(args.out / "personalization.png")
            report = {"about": machine(pick_device()), "base": base_digest(), "options": options}
            write_results(args.out / "personalization.json", report | {"summary": summary(rows), "subjects": rows})
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
