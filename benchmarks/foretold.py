"""python -m benchmarks.foretold [--work DIR] [--out DIR] [--steps N]: what an analysis tells of adapters beforehand.

Takes the six subjects of `benchmarks.pairs` with their three trainings each (the same work folder serves both), and
one more of each by each of `--more`. Asks (a) whether figures of a pair tell two adapters of one
subject from those of two subjects of a class, as the area under the ROC curve; and (b) whether they tell what each
loses in a picture of both, added up, as the rank correlation with the likeness lost, over the twelve pairs both ways.
The figure for (b) is chosen on the first half of the pairs and judged on the second. Writes foretold.json, and what the
program says of its own reliability. Resumable: trainings and pictures that lie in the work folder are not made again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import dreamtune
from benchmarks import pairs
from benchmarks.machine import RESULTS, machine, write_results
from benchmarks.pairs_people import PAIRS, PEOPLE, STEPS, TRAININGS, Person, trained
from benchmarks.quality_work import base_digest
from dreamtune.analysis.overlap import spearman
from dreamtune.evaluation.fidelity import likeness
from dreamtune.models import load_base
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.analyze.effects import Asking, Together, effects
from dreamtune.pipelines.analyze.together import RELIABILITY
from dreamtune.pipelines.generate.run import GenerateConfig
from dreamtune.pocket.world import CONTEXTS

MORE = ("lora", "dora", "loha")
"""Methods of the trainings that the study of pairs does not have, each by a seed of its own."""
DRAFT_STEPS = 6
"""Of the base's pictures on which adapters are asked, as `analyze` has it."""
Ways = Mapping[tuple[int, int], float]
"""(number of the pair, side) -> a figure."""


def auc(same: Sequence[float], other: Sequence[float]) -> float:
    """Share of all combinations in which the one of the first kind is larger; ties count half."""
    wins = [(x > y) + 0.5 * (x == y) for x in same for y in other]
    return sum(wins) / len(wins)


def told_apart(files: Sequence[Path], people: Sequence[Person]) -> dict[str, Any]:
    """Area under the curve of each figure that could tell "same subject" from "same class", and its values."""
    kinds: dict[str, dict[str, list[float]]] = {}
    for cls in dict.fromkeys(person.cls for person in people):
        chosen = [(str(file), person) for file, person in zip(files, people, strict=True) if person.cls == cls]
        names = [name for name, _ in chosen]
        asking = Asking([AdapterRef.load(name) for name in names], load_base("pocket"), DRAFT_STEPS)
        for pair in dreamtune.analyze(names, interference=False).to_dict()["pairs"]:
            a, b = pair["a"], pair["b"]
            kind = "same" if chosen[a][1] == chosen[b][1] else "other"
            figures = {"agreement": asking.agreement(a, b), "cosine": pair["cosine"], "left": pair["left"]}
            figures["overlap"] = pair["overlap"] - pair["overlap_chance"]
            for name, value in figures.items():
                kinds.setdefault(name, {"same": [], "other": []})[kind].append(round(value, 4))
    return {name: {"auc": round(auc(own["same"], own["other"]), 4)} | own for name, own in kinds.items()}


def losses(files: pairs.Files, work: Path) -> dict[tuple[int, int], float]:
    """Likeness alone in a picture of one less that in a picture of both, added up: of each side of each pair."""
    jury, found = pairs.Jury(files, work), {}
    alone = {person: _alone(person, files[person.token, "lora"], jury, work) for person in PEOPLE}
    for number, pair in enumerate(PAIRS):
        pictures = pairs.together("sum", pair, files, work)
        for side, person in enumerate(pair):
            there = likeness(jury.place(pictures, side), jury.references(person))
            found[number, side] = alone[person] - there
    return found


def _alone(person: Person, file: Path, jury: pairs.Jury, work: Path) -> float:
    prompts = tuple(f"{person.name} {place}" for place in CONTEXTS.values())
    pictures = pairs.drawn(GenerateConfig(prompts=prompts, adapters=(str(file),), n=1), work / "alone" / person.token)
    return likeness(jury.place(pictures, 0), jury.references(person))


def forecasts(files: pairs.Files) -> dict[str, dict[tuple[int, int], float]]:
    """Figures that could tell a loss, the larger the worse, of each side of each pair."""
    base, found = load_base("pocket"), {}
    for number, pair in enumerate(PAIRS):
        paths = [str(files[person.token, "lora"]) for person in pair]
        asked: Together = effects([AdapterRef.load(path) for path in paths], base, lambda _: None, steps=DRAFT_STEPS)[
            0, 1
        ]
        crosstalk = dreamtune.analyze(paths, steps=DRAFT_STEPS).to_dict()["interference"]["crosstalk"]
        for side in (0, 1):
            left = {"heard": asked.heard[side], "kept": asked.kept[side], "left of it": asked.left[side]}
            figures = {name: -value for name, value in left.items()}
            figures |= {"agreement": asked.agreement, "crosstalk": crosstalk[side][1 - side]}
            for name, value in figures.items():
                found.setdefault(name, {})[number, side] = value
    return found


def _half(values: Ways, second: bool) -> list[float]:
    return [value for (number, _), value in sorted(values.items()) if (number % 2 == 1) == second]


def foretold(found: Mapping[str, Ways], lost: Ways) -> dict[str, Any]:
    """Rank correlation of each figure with the loss: where it was to be chosen, where it was judged, over all."""
    rows = {}
    for name, values in found.items():
        parts = {
            "chosen_on": spearman(torch.tensor(_half(values, False)), torch.tensor(_half(lost, False))),
            "judged_on": spearman(torch.tensor(_half(values, True)), torch.tensor(_half(lost, True))),
            "all": spearman(*(torch.tensor([it[key] for key in sorted(lost)]) for it in (values, lost))),
        }
        rows[name] = {part: None if rho is None else round(rho, 4) for part, rho in parts.items()}
    best = max(rows, key=lambda name: rows[name]["chosen_on"] or -math.inf)
    return {"chosen": best, "figures": rows}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("pairs-work"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training (as the preset has it)")
    parser.add_argument("--trainings", default=",".join(TRAININGS), help="of the study of pairs, comma-separated (all)")
    parser.add_argument("--more", default=",".join(MORE), help=f"methods of more trainings ({','.join(MORE)})")
    options = parser.parse_args()
    ways, methods = options.trainings.split(","), options.more.split(",")
    if unknown := {*ways} - {*TRAININGS} | {*methods} - {*MORE}:
        raise SystemExit(f"unknown training {', '.join(sorted(unknown))}")
    files = {
        (person.token, way): trained(person, way, options.work, options.steps) for way in ways for person in PEOPLE
    }
    more = [
        trained(person, method, options.work, options.steps, seed=100 * (MORE.index(method) + 1) + person.number)
        for method in methods
        for person in PEOPLE
    ]
    apart = told_apart([*files.values(), *more], [*PEOPLE] * (len(ways) + len(methods)))
    lost = losses(files, options.work)
    figures = forecasts(files)
    told = foretold(figures, lost)
    rows = [
        {"pair": number, "side": side, "lost": round(loss, 4)}
        | {name: round(values[number, side], 4) for name, values in figures.items()}
        for (number, side), loss in lost.items()
    ]
    about = {"about": machine(), "base": base_digest(), "steps": options.steps, "trainings": ways, "more": methods}
    result = about | {"same_subject": apart, "loss": told, "ways": rows}
    write_results(options.out / "foretold.json", result)
    if options.out == RESULTS:  # what goes with the package
        write_results(RELIABILITY, excerpt(result))
    print(json.dumps({"same_subject": {name: it["auc"] for name, it in apart.items()}, "loss": told}, indent=1))


def excerpt(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the program says of its own reliability."""
    own = result["same_subject"]["agreement"]
    return {
        "base": result["base"],
        "same_subject": {"auc": own["auc"], "same": len(own["same"]), "other": len(own["other"])}
        | {"least_same": min(own["same"]), "most_other": max(own["other"])},
        "loss": result["loss"]["figures"]["left of it"] | {"ways": len(result["ways"])},
    }


if __name__ == "__main__":
    main()
