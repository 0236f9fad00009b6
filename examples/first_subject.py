"""`python examples/first_subject.py [--out demo] [--subject cat]`: teach the embedded base a subject and look at it.

Trains an adapter on examples/subjects/<subject>, draws it in four contexts, writes <out>/demo.png (its photographs;
the base with the class word alone; the adapter, from the same noise) and prints subject and prompt fidelity before and
after. This is the whole path from pictures to figures in one script.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from pathlib import Path
from random import Random

from PIL import Image

from dreamtune.adapters import AdapterFile
from dreamtune.evaluation import Personalization, measure_personalization
from dreamtune.models import load_base
from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.train.run import train
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import CONTEXTS, Subject, random_subject
from dreamtune.training.config import TrainConfig

SUBJECTS = Path(__file__).parent / "subjects"
SHOWN = ("beach", "snow", "city", "forest")
DEMO_STEPS = 500


def known_subject(name: str) -> Subject:
    """The individual behind a sample folder, by the command that made it, in subjects/README.md.

    Only the figures need it: they compare with pictures of the subject that training has not seen.
    """
    text = (SUBJECTS / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"--subject (\d+) --class (\w+) .*subjects/{re.escape(name)}$", text, re.MULTILINE)
    if not found:
        raise SystemExit(f"{SUBJECTS / 'README.md'} does not tell how {name} was drawn")
    return random_subject(Random(f"subject {found[1]}"), found[2])


def compose(photographs: list[Image.Image], measured: Personalization, cls: str, file: Path) -> None:
    """Three labelled rows: photographs, the class word on the base, the subject with the adapter."""
    chosen = [list(CONTEXTS).index(name) for name in SHOWN]
    rows = {
        "photographs of the subject": photographs[:4],
        f'before: "a {cls} ..."': [measured.figures.pictures_before[i] for i in chosen],
        f'after: "a sks {cls} ...", same noise': [measured.figures.pictures_after[i] for i in chosen],
    }
    places = [f"... {CONTEXTS[name]}" for name in SHOWN]
    sheet(rows, places, "base: pocket, trained by this project alone").save(file)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--subject", default="cat", choices=sorted(p.name for p in SUBJECTS.iterdir() if p.is_dir()))
    args = parser.parse_args()
    began = time.monotonic()
    subject = known_subject(args.subject)
    images = SUBJECTS / args.subject
    run = args.out / f"run-{args.subject}"
    shutil.rmtree(run, ignore_errors=True)  # of an earlier demo
    # fewer than the preset has, so that all of it takes less than four minutes on two cores
    result = train(TrainConfig(images=images, class_word=subject.cls, steps=DEMO_STEPS), run)

    base = load_base("pocket")
    with AdapterFile.load(result.adapter).attach(base.unet) as attached:
        measured = measure_personalization(base, attached, Evaluators.load(), subject, per_context=2)
    photographs = [Image.open(path).convert("RGB") for path in sorted(images.glob("*.png"))]
    compose(photographs, measured, subject.cls, args.out / "demo.png")

    s = measured.subject
    print(f"\nadapter            {result.adapter}")
    print(f"subject fidelity   before 0.00   after {s.share:.2f}   (1.00: real pictures of the {subject.cls})")
    print(f"  likeness         before {s.base:.2f}   after {s.generated:.2f}   real {s.real:.2f}")
    print(f"prompt fidelity    before {measured.figures.prompt_base:.2f}   after {measured.figures.prompt:.2f}")
    print(f'leak into "a {subject.cls}"  {measured.leak:.2f}          (0.00: any {subject.cls})')
    print(f"seconds            {time.monotonic() - began:.0f}, of which training {result.seconds_training:.0f}")
    print(f"picture            {args.out / 'demo.png'}")


if __name__ == "__main__":
    main()
