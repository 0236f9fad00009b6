"""The prompts and regions by which `benchmarks.pairs` brings two or three subjects into one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.pairs_people import Person
from dreamtune.generation.locate import SIDES
from dreamtune.pipelines.generate.run import GenerateConfig


def prompt_of(people: Sequence[Person], place: str, named: Sequence[int], first: int = 0) -> str:
    """All side by side in a place: those of the numbers `named` by their words, the others as any of their class.

    first: number of the one that is said first.
    """
    each = [
        f"{person.name if number in named else f'a {person.cls}'} {side}"
        for number, (person, side) in enumerate(zip(people, SIDES[len(people)], strict=True))
    ]
    each = [each[first], *each[:first], *each[first + 1 :]]
    return f"{', '.join(each[:-1])} and {each[-1]} {place}"


def by_regions(way: str, people: Sequence[Person], files: Sequence[Path], place: str) -> GenerateConfig:
    """Each adapter in its half or third, on a prompt of its own that has it first and any other of the class elsewhere.

    A prompt of the one subject alone would put it into the middle of the picture, and each half would get half of it.
    """
    count = len(people)
    regions = tuple(
        f"{file}@{number / count:.4f},0,{(number + 1) / count:.4f},1={prompt_of(people, place, [number], number)}"
        for number, file in enumerate(files)
    )
    mode = "blend" if way == "blend" else "routed"
    return GenerateConfig(prompts=(prompt_of(people, place, []),), regions=regions, mode=mode, n=1)


def by_layout(way: str, people: Sequence[Person], files: Sequence[Path], place: str) -> GenerateConfig:
    """No boxes: the prompt names everyone and their sides. In one pass, or each drawn alone and set into a draft."""
    mode = "collage" if way == "collage" else "routed"
    prompt = prompt_of(people, place, range(len(people)))
    return GenerateConfig(prompts=(prompt,), adapters=tuple(map(str, files)), layout="auto", mode=mode, n=1)
