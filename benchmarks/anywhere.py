"""python -m benchmarks.anywhere [--work DIR] [--out DIR] [--steps N]: is an adapter heard wherever its word stands?

Takes the adapters of `benchmarks.pairs` by LoRA (six unseen subjects; the same work folder serves both), draws each
alone, first and second of two beside a thing that no training had (OTHER) and beside any other of its class, in every
context, and has the evaluators say how like itself the subject is. Three of the tokens are words that the base was
never trained with. Writes anywhere.json. Resumable: trainings that lie in the work folder are not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.pairs_people import PEOPLE, STEPS, Person, trained
from benchmarks.quality_work import base_digest
from dreamtune.adapters import AdapterFile
from dreamtune.models import Base, load_base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.train.run import load_run_config
from dreamtune.pocket import photographs
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import CONTEXTS
from dreamtune.pocket.world.captions import IDENTIFIERS

OTHER = "mug"
"""What stands beside the subject; composites of the preset have other things."""
RENDERS = 12


def forms(person: Person) -> dict[str, tuple[str, int]]:
    """Name -> prompt without a place, and which subject of the picture from the left is meant (-1: the last)."""
    name, other = person.name, f"a {OTHER}"
    return {
        "alone": (name, 0),
        "first, left": (f"{name} on the left and {other} on the right", 0),
        "first, right": (f"{name} on the right and {other} on the left", -1),
        "second, right": (f"{other} on the left and {name} on the right", -1),
        "second, left": (f"{other} on the right and {name} on the left", 0),
        "beside its class": (f"a {person.cls} on the left and {name} on the right", -1),
        "the other of its class": (f"a {person.cls} on the left and {name} on the right", 0),
        "leak": (f"a {person.cls}", 0),
    }


def measure(base: Base, judge: Evaluators, person: Person, file: Path) -> dict[str, Any]:
    """Mean likeness of one subject by form, and the share of pictures of two in which two subjects are found."""
    references = judge.identity(photographs(person.subject, RENDERS, seed=1_000))
    usual, found, both = USUAL["pocket"], {}, []
    attached = base.attach(AdapterFile.load(str(file)))
    try:
        for form, (prompt, side) in forms(person).items():
            prompts = [f"{prompt} {place}" for place in CONTEXTS.values()]
            latents = base.draw(
                prompts, range(len(prompts)), size=base.resolution, steps=usual.steps, guidance=usual.guidance
            )
            seen = judge.identities(base.to_pictures(latents))
            found[form] = round(float((torch.stack([rows[side] for rows in seen]) @ references.T).mean()), 3)
            if " and " in prompt:
                both += [len(rows) == 2 for rows in seen]
    finally:
        attached.detach()
    second = fmean((found["second, right"], found["second, left"]))
    return {"subject": person.name, **found, "both_found": fmean(both), "kept_as_second": second / found["alone"]}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("pairs-work"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training (as the preset has it)")
    options = parser.parse_args()
    files = {person.token: trained(person, "lora", options.work, options.steps) for person in PEOPLE}
    base, judge, rows = load_base("pocket"), Evaluators.load(), []
    for person in PEOPLE:
        row = measure(base, judge, person, files[person.token])
        rows.append(row | {"token_known_to_base": person.token in IDENTIFIERS})
        print(json.dumps(rows[-1]), flush=True)
    means = {key: round(fmean(row[key] for row in rows), 3) for key, value in rows[0].items() if type(value) is float}
    report = {"about": machine(pick_device()), "base": base_digest(), "steps": options.steps, "other": OTHER}
    report["compose"] = load_run_config(files[PEOPLE[0].token].parent).compose
    write_results(options.out / "anywhere.json", report | {"mean": means, "subjects": rows})
    print(json.dumps(means))


if __name__ == "__main__":
    main()
