"""python -m benchmarks.pairs [--work DIR] [--out DIR] [--steps N] [--ways A,B]: two subjects in one picture.

Trains six unseen subjects of the embedded base's world, three cats and three dogs, each alone: by LoRA, by Spectral
Adapter on column blocks of their own, and by orthogonal LoRA on slots of their own. Then brings them together in
pairs, six of one class and six of two, in each of WAYS, draws "A on the left and B on the right" in every context,
and has the evaluators judge who is there; and six triples in THREE_WAYS, by the strict count alone. Writes
pairs.json, with bootstrap intervals over the pairs, and a figure.
Resumable: trainings, fusions and pictures that lie in the work folder are not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from benchmarks import pairs_ways as ways
from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.pairs_judging import Couple, judge_couple, strict_share
from benchmarks.pairs_people import FIRST_SEED, PAIRS, PEOPLE, RANK, STEPS, TRAININGS, TRIPLES, Person, trained
from benchmarks.quality_statistics import bootstrap
from benchmarks.quality_work import base_digest
from dreamtune.errors import ConfigError
from dreamtune.evaluation.fidelity import likeness
from dreamtune.fusion import FUSIONS
from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.fuse.run import FuseConfig, fuse
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from dreamtune.pocket import photographs
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import CONTEXTS

WAYS = ("sum", "mean", "ties", "tsv", "gradient", "blocks", "orthogonal", "regions", "blend", "auto", "collage")
THREE_WAYS = ("sum", "regions", "collage")
"""Of three subjects: side by side, in thirds in one pass, and as a collage: the base lays out no three."""
RESAMPLES = 2_000
"""Of the intervals in pairs.json."""
SHOWN = ("beach", "snow", "city", "night")
Files = dict[tuple[str, str], Path]
"""Token of a subject and name of a training -> its adapter."""


def drawn(config: GenerateConfig, folder: Path) -> list[Image.Image]:
    """The pictures of `config`: those that lie in `folder`, or new ones in place of some that were not finished."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)  # generate would number on, and both would count
        generate(config, folder)
        (folder / "done").touch()
    return [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.png"))]


def together(way: str, pair: tuple[Person, Person], files: Files, work: Path) -> list[Image.Image]:
    """A picture of both in each context, brought together in one of WAYS; all ways begin with the same noise."""
    first, second = pair
    training = way if way in TRAININGS else "lora"
    both = tuple(files[person.token, training] for person in pair)
    if way in ("auto", "collage"):
        return by_layout(way, pair, both, work)
    folder = work / "pictures-of-two" / f"{first.token}-{second.token}" / way
    if way in ("regions", "blend"):
        return [
            picture
            for context, place in CONTEXTS.items()
            for picture in drawn(ways.by_regions(way, pair, both, place), folder / context)
        ]
    fused = work / "fused" / f"{first.token}-{second.token}-{way}.safetensors"
    if not fused.exists():
        fused.parent.mkdir(parents=True, exist_ok=True)
        method = way if way in FUSIONS else "sum"
        fuse(FuseConfig(adapters=tuple(map(str, both)), method=method), fused)
    prompts = tuple(f"{first.name} on the left and {second.name} on the right {place}" for place in CONTEXTS.values())
    return drawn(GenerateConfig(prompts=prompts, adapters=(str(fused),), n=1), folder)


def by_layout(way: str, people: Sequence[Person], files: Sequence[Path], work: Path) -> list[Image.Image]:
    """A picture in each context by an automatic layout, in one pass or as a collage, or the base's where it fails."""
    folder = work / f"pictures-by-{way}" / "-".join(person.token for person in people)
    found = []
    for context, place in CONTEXTS.items():
        try:
            found += drawn(ways.by_layout(way, people, files, place), folder / context)
        except ConfigError:  # somebody has no place of their own
            plain = GenerateConfig(prompts=(ways.prompt_of(people, place, []),), n=1)
            found += drawn(plain, folder / f"{context}-without")
    return found


def triple(people: Sequence[Person], files: Files, jury: Jury, work: Path) -> dict[str, float]:
    """The strict count of three in one picture, by each of THREE_WAYS."""
    own = [files[person.token, "lora"] for person in people]
    name, found = "-".join(person.token for person in people), {}
    for way in THREE_WAYS:
        if way == "collage":
            pictures = by_layout(way, people, own, work)
        elif way == "regions":
            folder = work / "pictures-of-three" / name / way
            pictures = [
                picture
                for context, place in CONTEXTS.items()
                for picture in drawn(ways.by_regions(way, people, own, place), folder / context)
            ]
        else:
            prompts = tuple(ways.prompt_of(people, place, range(3)) for place in CONTEXTS.values())
            plain = GenerateConfig(prompts=prompts, adapters=tuple(map(str, own)), n=1)
            pictures = drawn(plain, work / "pictures-of-three" / name / way)
        seen = jury.evaluators.identities_in_strips(pictures, len(people))
        found[way] = round(strict_share(seen, [jury.references(person) for person in people]), 4)
    return found


def alone(pair: tuple[Person, Person], side: int, training: str, files: Files, work: Path) -> list[Image.Image]:
    """The same pictures with one of the two, by its own adapter alone, and any other of its class beside it."""
    names = [person.name if i == side else f"a {person.cls}" for i, person in enumerate(pair)]
    person = pair[side]
    prompts = tuple(f"{names[0]} on the left and {names[1]} on the right {place}" for place in CONTEXTS.values())
    config = GenerateConfig(prompts=prompts, adapters=(str(files[person.token, training]),), n=1)
    return drawn(config, work / "pictures-of-one" / f"{'-'.join(it.token for it in pair)}-{person.token}-{training}")


def base_pictures(pair: tuple[Person, Person], work: Path) -> list[Image.Image]:
    """The same pictures with any two of their classes, by the base."""
    first, second = (person.cls for person in pair)
    prompts = tuple(f"a {first} on the left and a {second} on the right {place}" for place in CONTEXTS.values())
    return drawn(GenerateConfig(prompts=prompts, n=1), work / "pictures-of-none" / f"{first}-{second}")


class Jury:
    """Judges pairs; embeddings that several pairs need are computed once."""

    def __init__(self, files: Files, work: Path) -> None:
        self.files, self.work, self.evaluators = files, work, Evaluators.load()
        self._references: dict[str, torch.Tensor] = {}

    def references(self, person: Person) -> torch.Tensor:
        """(n, width) of photographs that no training has seen."""
        if person.token not in self._references:
            pictures = photographs(person.subject, 12, seed=1_000)
            self._references[person.token] = self.evaluators.identity(pictures)
        return self._references[person.token]

    def place(self, pictures: Sequence[Image.Image], side: int) -> torch.Tensor:
        """(n, width) who is on that side; in a picture of one subject it is that one."""
        return torch.stack([rows[0 if side == 0 else -1] for rows in self.evaluators.identities(list(pictures))])

    def couple(self, pair: tuple[Person, Person], training: str) -> Couple:
        """What is known of two subjects, by their own adapters of that training."""
        references = self.references(pair[0]), self.references(pair[1])
        base = base_pictures(pair, self.work)
        bases = [self.place(base, side) for side in (0, 1)]
        own = [self.place(alone(pair, side, training, self.files, self.work), side) for side in (0, 1)]
        return Couple(
            references=references,
            base=(likeness(bases[0], references[0]), likeness(bases[1], references[1])),
            alone=(likeness(own[0], references[0]), likeness(own[1], references[1])),
            control=(likeness(own[0], references[1]), likeness(own[1], references[0])),
        )

    def judge(self, way: str, pair: tuple[Person, Person]) -> dict[str, float]:
        """One way for one pair; `alone` is the gain of each adapter alone."""
        pictures = together(way, pair, self.files, self.work)
        couple = self.couple(pair, way if way in TRAININGS else "lora")
        judged = judge_couple(self.evaluators.identities(pictures), couple)
        return judged.to_dict() | {"alone": round(couple.gain, 4)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and 95 % interval of every figure over pairs, by way: all, those of one class, those of two."""
    found: dict[str, Any] = {}
    for way in (way for way in WAYS if way in rows[0]):
        for kind in ("all", "same class", "two classes"):
            chosen = [row[way] for row in rows if kind in ("all", row["kind"])]
            columns = {name: [figures[name] for figures in chosen] for name in chosen[0]}
            table = {name: (fmean(column), *bootstrap(column, resamples=RESAMPLES)) for name, column in columns.items()}
            kept = fmean(columns["gain"]) / fmean(columns["alone"])
            table["retention"] = (kept, *bootstrap(columns["gain"], columns["alone"], RESAMPLES))
            found.setdefault(way, {})[kind] = {name: [round(v, 4) for v in row] for name, row in table.items()}
    return found


def figure(pair: tuple[Person, Person], files: Files, work: Path, chosen: Sequence[str] = WAYS) -> Image.Image:
    """One pair in the chosen ways, in a few contexts, beside photographs of both."""
    shown = [list(CONTEXTS).index(name) for name in SHOWN]
    rows = {f"{it.name}: photographs": photographs(it.subject, len(SHOWN), seed=FIRST_SEED + it.number) for it in pair}
    rows |= {way: [together(way, pair, files, work)[i] for i in shown] for way in chosen}
    return sheet(rows, [CONTEXTS[name] for name in SHOWN], f"{pair[0].name} on the left, {pair[1].name} on the right")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("pairs-work"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training (as the preset has it)")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of them, comma-separated (all)")
    options = parser.parse_args()
    chosen = tuple(options.ways.split(","))
    if unknown := set(chosen) - set(WAYS):
        raise SystemExit(f"--ways: unknown {', '.join(sorted(unknown))}; ways are {', '.join(WAYS)}")
    trainings = [it for it in TRAININGS if it in chosen or it == "lora"]
    files = {
        (person.token, way): trained(person, way, options.work, options.steps) for way in trainings for person in PEOPLE
    }
    jury, rows = Jury(files, options.work), []
    for pair in PAIRS:
        kind = "same class" if pair[0].cls == pair[1].cls else "two classes"
        judged = {way: jury.judge(way, pair) for way in chosen}
        rows.append({"pair": [it.name for it in pair], "kind": kind, **judged})
        print(json.dumps(rows[-1]), flush=True)
    report = {"about": machine(pick_device()), "base": base_digest(), "steps": options.steps, "rank": RANK}
    threes = [{"triple": [it.name for it in people], **triple(people, files, jury, options.work)} for people in TRIPLES]
    report["seeds"] = "own"
    report |= {"summary": summary(rows), "pairs": rows, "triples": threes}
    write_results(options.out / "pairs.json", report)
    for name, pair in (("same", PAIRS[0]), ("two", PAIRS[6])):
        figure(pair, files, options.work, chosen).save(options.out / f"pairs-{name}-class.png")
    for way, figures in report["summary"].items():
        told = (f"{name} {mean:.2f} [{low:.2f}, {high:.2f}]" for name, (mean, low, high) in figures["all"].items())
        print(f"{way:12}", *told)


if __name__ == "__main__":
    main()
