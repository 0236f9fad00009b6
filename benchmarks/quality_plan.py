"""What the quality benchmark measures: levels of one budget and one seed each, their runs, and the choice of rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_methods import BUDGETS, CONTESTANTS, RATES, Contestant, attached_by, sized
from benchmarks.quality_run import Settings, Task, base_on, examiner, run
from benchmarks.quality_statistics import both
from benchmarks.quality_subjects import PHOTOS, held_out, prompts, tuning
from benchmarks.quality_work import Job
from dreamtune.errors import GenerationError, TrainingError
from dreamtune.evaluation import Score

SEEDS = (0, 1, 2)
TUNING_SEED = 100
LEVELS = tuple((budget, seed) for seed in SEEDS for budget in BUDGETS)
"""Budget and seed of each level, in the order in which they are done."""
LEVELS_ON_CPU = 3
"""What two cores do in about two and a half hours: each budget once."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    settings: Settings
    levels: tuple[tuple[int, int], ...]
    subjects: tuple[str, ...]
    tuning: tuple[str, ...]
    contestants: tuple[Contestant, ...] = CONTESTANTS

    def tuning_jobs(self, budget: int) -> list[Job]:
        """The runs that learning rates of a budget are chosen by."""
        return [
            self._job("tune", contestant, budget, rate, subject, TUNING_SEED)
            for subject in self.tuning
            for contestant in self.contestants
            for rate in self.grid(contestant)
        ]

    def jobs(self, budget: int, seed: int, chosen: dict[str, float]) -> list[Job]:
        """The runs of a level; chosen: contestant -> learning rate."""
        return [
            self._job("test", contestant, budget, chosen[contestant.name], subject, seed)
            for subject in self.subjects
            for contestant in self.contestants
        ]

    def grid(self, contestant: Contestant) -> tuple[float, ...]:
        """Where nothing is tuned, the middle rate alone."""
        rates = RATES[contestant.method]
        return rates if self.tuning else rates[1:2]

    def _job(self, kind: str, contestant: Contestant, budget: int, rate: float, subject: str, seed: int) -> Job:
        options = sized(contestant.method, base_on("cpu"), budget)
        if contestant.method == "lora-dash":
            options = tuple(sorted((dict(options) | {"launch_step": self.settings.steps // 5}).items()))
        task = Task(
            subject, contestant.toolkit, contestant.method, options, rate, seed, self.settings, whole=kind == "test"
        )
        return Job(f"{kind} {budget} {contestant.name} {subject} {rate:g} {seed}", work, task)


def quick() -> Plan:
    """For CI: every contestant once, on one subject of each of two pairs, at its middle learning rate."""
    settings = Settings(steps=60, batch_size=4, prior_pictures=16, drawing_steps=8)
    return Plan(settings, LEVELS[:1], (held_out()[0], held_out()[2]), ())


def whole(levels: int) -> Plan:
    """The first `levels` of all."""
    return Plan(Settings(), LEVELS[:levels], tuple(held_out()), tuple(tuning()))


def work(task: Task, device: str, place: Path) -> dict[str, Any]:
    """One run, as a job; its strip of pictures lies beside the result.

    A learning rate that is being tried may be too high for any result: then it says why.
    """
    try:
        figures, strip = run(task, device)
    except (TrainingError, GenerationError) as error:
        if task.whole:
            raise
        return {"failed": str(error)}
    strip.save(place.parent / f"{place.name}.png")
    return figures


def anchors(task: Task, device: str, place: Path) -> dict[str, Any]:
    """What the base and real pictures reach, as a job."""
    base = base_on(device)
    with attached_by(base, task.toolkit, task.method, task.options, task.seed) as attached:
        return examiner(device, task.subject, task.token, task.settings.drawing_steps, True).anchors(attached)


def choose(rates: Sequence[float], rows: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The rate of the highest harmonic mean of subject and prompt fidelity; rows[i] are those of rate i.

    A limit to the loss of prompts instead would shut out, by the noise of two subjects, one method's rate and not
    another's. Whether a rate keeps prompts and class by the rule with which trainings name their best step
    (`dreamtune.evaluation.Score`) is told. Where no rate learns anything the lowest is taken.
    """

    def mean(own: Sequence[dict[str, Any]], name: str) -> float:
        return float(np.mean([row.get(name, np.nan) for row in own]))  # NaN where a training failed: never taken

    scores = [
        Score(
            step=0,
            subject=mean(own, "fidelity"),
            prompt=mean(own, "prompt"),
            prompt_base=mean(own, "prompt_base"),
            leak=mean(own, "leak"),
            drift=0.0,
        )
        for own in rows
    ]
    best = int(np.argmax([both({"fidelity": score.subject, "prompt": score.prompt}) for score in scores]))
    told = [{"lr": rate, **score.to_dict()} for rate, score in zip(rates, scores, strict=True)]
    kept = ("lr", "subject", "prompt", "prompt_base", "leak", "acceptable")
    tried = [{name: row[name] for name in kept} for row in told]
    return {"chosen": rates[best], "at_the_edge": best in (0, len(rates) - 1), "tried": tried}


def tuned(plan: Plan, budget: int, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Contestant -> its choice at a budget; results are those of the plan's tuning jobs."""
    by_task = dict(
        zip(
            ((name_of(job.task), job.task.lr, job.task.subject) for job in plan.tuning_jobs(budget)),
            results,
            strict=True,
        )
    )
    tuned = {}
    for contestant in plan.contestants:
        grid = plan.grid(contestant)
        if not plan.tuning:
            tuned[contestant.name] = {"chosen": grid[0], "at_the_edge": False, "tried": []}
            continue
        rows = [[by_task[contestant.name, rate, subject] for subject in plan.tuning] for rate in grid]
        tuned[contestant.name] = choose(grid, rows)
    return tuned


def name_of(task: Task) -> str:
    """The contestant of a task."""
    return Contestant(task.toolkit, task.method).name


def coverage(plan: Plan) -> dict[str, Any]:
    """What the plan measures and what of the whole one remains."""
    left = [level for level in LEVELS if level not in plan.levels]
    return {
        "levels": [{"budget": budget, "seed": seed} for budget, seed in plan.levels],
        "remaining": [{"budget": budget, "seed": seed} for budget, seed in left],
        "subjects": list(plan.subjects),
        "tuning_subjects": list(plan.tuning),
        "methods": [contestant.name for contestant in plan.contestants],
        "photographs": PHOTOS,
        "prompts": len(prompts("cat")),
        "pictures_per_prompt": 2,
    }
