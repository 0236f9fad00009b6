"""python -m benchmarks.time_to_subject [--repeats N] [--steps N] [--out FILE.json].

How long until the subject is there: CPU seconds of training until subject fidelity reaches 0.9 of what it is at the
end, for LoRA by dreamtune and by PEFT in the same loop, on the same photographs, noise and steps. Pictures are drawn
every few steps and their time does not count. The two are trained in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.quality_measure import Examiner
from benchmarks.quality_methods import CONTESTANTS, attached_by, sized
from benchmarks.quality_run import Settings, Task, base_on, train
from benchmarks.quality_subjects import TOKEN, held_out
from dreamtune.errors import ConfigError
from dreamtune.training.trainer import StepRecord

BUDGET, LR = 100_000, 1e-2
SHARE = 0.9
POINTS = 10
"""Points of a curve."""


def curve(task: Task, device: str, examiner: Examiner) -> list[dict[str, float]]:
    """Step, training seconds so far and subject fidelity, POINTS times in a training."""
    base, points, spent = base_on(device), list[dict[str, float]](), 0.0
    every = task.settings.steps // POINTS
    clock = time.process_time if device == "cpu" else time.perf_counter  # a busy machine changes the former little
    with attached_by(base, task.toolkit, task.method, task.options, task.seed) as attached:
        began = clock()

        def on_start(_: int) -> None:
            nonlocal began
            began = clock()  # class pictures, which the first of all trainings draws for the others too, do not count

        def on_step(record: StepRecord) -> None:
            nonlocal spent, began
            spent += clock() - began
            if record.step % every == 0:
                attached.eval()
                with torch.random.fork_rng(devices=[]):
                    fidelity = examiner.measure(attached)[0]["fidelity"]
                attached.train()
                points.append({"step": record.step, "seconds": round(spent, 3), "fidelity": fidelity})
            began = clock()

        train(base, attached, task, on_step, on_start)
    return points


def reached(points: Sequence[dict[str, float]]) -> float:
    """Seconds from which on fidelity stays at SHARE of the last or above, linear between points.

    Raises ConfigError if there is none at the end.
    """
    if points[-1]["fidelity"] <= 0:
        raise ConfigError(f"after {points[-1]['step']:g} steps nothing has been learned: give more --steps")
    goal = SHARE * points[-1]["fidelity"]
    before = {"seconds": 0.0, "fidelity": 0.0}
    for i, point in enumerate(points):
        if all(later["fidelity"] >= goal for later in points[i:]):
            rise = point["fidelity"] - before["fidelity"]
            share = (goal - before["fidelity"]) / rise if rise > 0 else 1.0
            return before["seconds"] + min(max(share, 0.0), 1.0) * (point["seconds"] - before["seconds"])
        before = point
    raise AssertionError("the last point reaches any share of itself")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="subjects (2)")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of each training (100)")
    parser.add_argument("--out", type=Path, default=RESULTS / "time-to-subject.json", metavar="FILE.json")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.steps < POINTS or options.steps % POINTS:
        parser.error(f"--repeats must be at least 1, and --steps a multiple of {POINTS}")
    device, settings = pick_device(), Settings(steps=options.steps)
    if device == "cpu":
        torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for subject in held_out()[: options.repeats]:
        examiner = Examiner(base_on(device), subject, TOKEN, settings.drawing_steps, whole=False)
        for contestant in (it for it in CONTESTANTS if it.method == "lora"):
            sizes = sized("lora", base_on(device), BUDGET)
            task = Task(subject, contestant.toolkit, "lora", sizes, LR, 0, settings)
            points = curve(task, device, examiner)
            rows.append(
                {"subject": subject, "method": contestant.name, "seconds": round(reached(points), 3), "curve": points}
            )
            print(f"{subject:<8} {contestant.name:<10} {rows[-1]['seconds']:.1f} s", flush=True)
    means = {
        name: round(statistics.fmean(row["seconds"] for row in rows if row["method"] == name), 3)
        for name in dict.fromkeys(row["method"] for row in rows)
    }
    print("mean: " + ", ".join(f"{name} {value:.1f} s" for name, value in means.items()))
    write_results(
        options.out,
        {
            "about": machine(device),
            "share": SHARE,
            "budget": BUDGET,
            "lr": LR,
            "steps": options.steps,
            "means": means,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
