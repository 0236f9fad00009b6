"""python -m benchmarks.quality [--quick] [--plan] [--levels N] [--workers N] [--work DIR] [--out FILE.json].

How well every method learns subjects that the embedded base has never seen, beside PEFT's LoRA, DoRA, LoHa and LoKr in
the same loop: same photographs, class pictures, noise, steps and optimizer, and as many trainable numbers as a budget
allows. Each chooses its learning rate from as many as the others, on subjects that nothing else is measured on.

The plan is done level by level; a level is one budget and one seed, with all methods and held-out subjects, so that
what has been done is a whole table whenever it ends. Finished runs are in the work folder and are not done again.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.quality_plan import LEVELS, LEVELS_ON_CPU, Plan, anchors, coverage, name_of, quick, tuned, whole
from benchmarks.quality_run import SHOWN, Task, run
from benchmarks.quality_subjects import individual
from benchmarks.quality_work import Job, base_digest, do_all, result_of


def measure(plan: Plan, folder: Path, workers: int, device: str) -> dict[str, Any]:
    """Do what is missing of the plan and return all of its results."""

    def tell(line: str) -> None:
        print(line, flush=True)

    rates: dict[str, dict[str, Any]] = {}
    runs: list[dict[str, Any]] = []
    for number, (budget, seed) in enumerate(plan.levels, 1):
        tell(f"level {number} of {len(plan.levels)}: {budget:,} parameters, seed {seed}")
        if str(budget) not in rates:
            rates[str(budget)] = tuned(plan, budget, do_all(folder, plan.tuning_jobs(budget), workers, device, tell))
        chosen = {name: told["chosen"] for name, told in rates[str(budget)].items()}
        jobs = plan.jobs(budget, seed, chosen)
        for job, result in zip(jobs, do_all(folder, jobs, workers, device, tell), strict=True):
            task: Task = job.task
            about = {"budget": budget, "seed": seed, "method": name_of(task), "subject": task.subject, "lr": task.lr}
            runs.append(about | result)
    first = plan.jobs(*plan.levels[0], {it.name: plan.grid(it)[0] for it in plan.contestants})
    of_subject = {job.task.subject: replace(job.task, lr=0.0, seed=0) for job in reversed(first)}
    jobs = [Job(f"anchors {name}", anchors, of_subject[name]) for name in plan.subjects]
    found = do_all(folder, jobs, workers, device, tell)
    return {
        "about": machine(device) | {"base": base_digest(), "threads_per_run": 1},
        "settings": asdict(plan.settings),
        "coverage": coverage(plan),
        "rates": rates,
        "anchors": dict(zip(plan.subjects, found, strict=True)),
        "runs": runs,
    }


def estimate(plan: Plan, folder: Path, workers: int, device: str) -> str:
    """How long the plan takes here, from a short run of LoRA; what is done already is not counted.

    Runs at a budget whose learning rates are not all tried yet are not known, and count as missing.
    """
    torch.set_num_threads(1)
    steps, drawing = 6, 4
    probe = replace(plan.settings, steps=steps, drawing_steps=drawing)
    job = plan.jobs(*plan.levels[0], {it.name: plan.grid(it)[0] for it in plan.contestants})[0]
    run(replace(job.task, settings=probe, whole=False), device)  # everything is loaded by then
    began = time.perf_counter()
    figures, _ = run(replace(job.task, settings=probe, whole=False), device)
    drawn = 20  # pictures of the short evaluation, each of `drawing` steps
    per_step = figures["seconds"] / steps
    per_drawing = (time.perf_counter() - began - figures["seconds"]) / (drawn * drawing)
    settings, lines, total = plan.settings, [], 0.0
    training = settings.steps * per_step
    short, long = (training + pictures * settings.drawing_steps * per_drawing for pictures in (20, 80))
    for number, (budget, seed) in enumerate(plan.levels, 1):
        tune = [result_of(folder, one, device) for one in plan.tuning_jobs(budget)]
        tried = [result for result in tune if result is not None]
        left = len(plan.contestants) * len(plan.subjects)
        if len(tried) == len(tune):
            chosen = {name: told["chosen"] for name, told in tuned(plan, budget, tried).items()}
            left = sum(result_of(folder, one, device) is None for one in plan.jobs(budget, seed, chosen))
        first = budget not in [level[0] for level in plan.levels[: number - 1]]
        seconds = ((len(tune) - len(tried)) * short * first + left * long) / workers
        total += seconds
        done = f"{len(tried)} of {len(tune)} tuning runs done, " if first and tune else ""
        lines.append(f"{number}. {budget:>7,} parameters, seed {seed}: {done}{left} runs, {seconds / 60:.0f} min")
    lines.append(f"in all about {total / 3600:.1f} h on {device} in {workers} processes")
    return "\n".join(lines)


def sheet(plan: Plan, folder: Path, device: str, report: dict[str, Any]) -> Image.Image:
    """Photographs of the first subject, and below them a row of pictures by each contestant at the first level."""
    budget, seed = plan.levels[0]
    chosen = {name: told["chosen"] for name, told in report["rates"][str(budget)].items()}
    photos = np.concatenate([np.asarray(photo) for photo in individual(plan.subjects[0]).photos], 1)
    side = photos.shape[0]
    strips = [np.pad(photos, ((0, 0), (0, side * SHOWN - photos.shape[1]), (0, 0)), constant_values=255)]
    for job in plan.jobs(budget, seed, chosen):
        if job.task.subject == plan.subjects[0]:
            place = job.place(folder, device)
            strips.append(np.asarray(Image.open(place.parent / f"{place.name}.png")))
    return Image.fromarray(np.concatenate(strips))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small plan, for a test that all works")
    parser.add_argument("--plan", action="store_true", help="only say what would be done and how long it takes here")
    parser.add_argument("--levels", type=int, metavar="N", help=f"(CPU {LEVELS_ON_CPU}, else all {len(LEVELS)})")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (one per core)"
    )
    parser.add_argument("--work", type=Path, default=Path("quality-work"), metavar="DIR", help="finished runs")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="(benchmarks/results/quality.json)")
    options = parser.parse_args(arguments)
    device = pick_device()
    levels = options.levels or (LEVELS_ON_CPU if device == "cpu" else len(LEVELS))
    if not 1 <= levels <= len(LEVELS) or options.workers < 1:
        parser.error(f"--levels must be 1 to {len(LEVELS)}, and --workers at least 1")
    plan = quick() if options.quick else whole(levels)
    if options.plan:
        print(estimate(plan, options.work, options.workers, device))
        return
    out = options.out or (options.work / "quick.json" if options.quick else RESULTS / "quality.json")
    report = measure(plan, options.work, options.workers, device)
    write_results(out, report)
    sheet(plan, options.work, device, report).save(out.with_suffix(".png"))
    for budget, _ in plan.levels:
        for contestant in plan.contestants:
            rows = [row for row in report["runs"] if (row["budget"], row["method"]) == (budget, contestant.name)]
            means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in ("fidelity", "prompt", "leak")}
            print(f"{budget:>7,} {contestant.name:<12}" + "".join(f" {n} {v:.2f}" for n, v in means.items()))
    print(f"written: {out}")


if __name__ == "__main__":
    main()
