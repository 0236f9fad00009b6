"""`python examples/methods.py [--out methods] [--subject cat] [--only lora,loha]`: one subject by many methods.

Trains an adapter on examples/subjects/<subject> with each of METHODS, by its preset for the embedded base, draws the
same prompts from the same noise with all of them, and writes <out>/methods.png and <out>/methods.json. A method whose
adapter is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image

from dreamtune.adapters import AdapterFile
from dreamtune.evaluation import Personalization, measure_personalization
from dreamtune.models import load_base
from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.train.run import train
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import CONTEXTS, Subject
from dreamtune.training.config import TrainConfig
from first_subject import SHOWN, SUBJECTS, known_subject

METHODS = ("lora", "dora", "lora-dash", "spectral-a", "spectral-r", "loha", "lokr")


def measure(method: str, out: Path, images: Path, subject: Subject) -> tuple[dict[str, Any], Personalization]:
    """Train `method` unless that was done, and measure it."""
    config = TrainConfig(images=images, class_word=subject.cls, method=method).with_presets("pocket")
    run = out / method
    if not (run / "adapter.safetensors").exists():
        train(config, run)
    file = AdapterFile.load(run / "adapter.safetensors")
    base = load_base("pocket")
    with file.attach(base.unet) as attached:
        measured = measure_personalization(base, attached, Evaluators.load(), subject, per_context=2)
    about = {"parameters": sum(t.numel() for t in file.tensors.values()), "lr": config.lr, "rank": config.rank}
    return measured.to_dict() | about, measured


def compose(
    photographs: list[Image.Image], rows: dict[str, tuple[dict[str, Any], Personalization]], cls: str
) -> Image.Image:
    """The photographs, the base with the class word, and a row per method, all but the first from the same noise."""
    chosen = [list(CONTEXTS).index(name) for name in SHOWN]
    before = next(iter(rows.values()))[1].figures.pictures_before
    shown = {"photographs": photographs[: len(SHOWN)], f'the base: "a {cls} ..."': [before[i] for i in chosen]}
    for name, (row, measured) in rows.items():
        label = f"{name}: subject fidelity {row['subject_fidelity']:.2f}, prompt {row['prompt_after']:.2f}"
        shown[label] = [measured.figures.pictures_after[i] for i in chosen]
    return sheet(shown, [f"... {CONTEXTS[name]}" for name in SHOWN], f'"a sks {cls} ..." by every method, same noise')


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("methods"))
    parser.add_argument("--subject", default="cat", choices=sorted(p.name for p in SUBJECTS.iterdir() if p.is_dir()))
    parser.add_argument("--only", default=",".join(METHODS), help="methods, comma-separated")
    args = parser.parse_args()
    subject, images = known_subject(args.subject), SUBJECTS / args.subject
    rows = {name: measure(name, args.out, images, subject) for name in args.only.split(",")}
    photographs = [Image.open(path).convert("RGB") for path in sorted(images.glob("*.png"))]
    compose(photographs, rows, subject.cls).save(args.out / "methods.png")
    (args.out / "methods.json").write_text(json.dumps({name: row for name, (row, _) in rows.items()}, indent=1) + "\n")
    for name, (row, _) in rows.items():
        print(f"{name:12} fidelity {row['subject_fidelity']:.2f}  leak {row['leak']:.2f}  lr {row['lr']:g}")
    print(args.out / "methods.png")


if __name__ == "__main__":
    main()
