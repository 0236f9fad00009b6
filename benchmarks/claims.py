"""python -m benchmarks.claims [--pairs N] [--workers N] [--work DIR] [--out FILE.json].

What papers claim of the methods, measured on the embedded base: each claim with its source, what would show it, what
was measured on the held-out subjects, and whether it holds, by 95 % intervals over subjects. Claims that compare
methods are read from the results of `make bench-quality`; the others have trainings of their own here, alike but for
the learning rate, which is a method's best on the subjects for tuning.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims_run import TOKENS, Fused, Watched, directions, fused, kept, learning, look, own_columns
from benchmarks.claims_verdicts import verdicts
from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.quality_run import Settings, Task, base_on
from benchmarks.quality_subjects import PAIRS, held_out, look_alike_of
from benchmarks.quality_work import Job, base_digest, do_all
from dreamtune.adapters import AdapterFile

RATES = {"lora": 1e-2, "lora-dash": 1e-2, "spectral-a": 3e-3, "full": 1e-3}
"""Learning rates: the best of `make bench-quality`'s grids that keeps prompts; of full fine-tuning of 1e-4 to 3e-3."""
RANK = 5
"""About 100,000 trainable numbers of LoRA on the embedded base."""
HIGH_RANK, STANDARD_ALPHA = 64, 8.0
"""For rsLoRA: scale alpha/√rank against alpha/rank."""
HIGH_RATES = {"high rank": (1e-2, False), "high rank rs": (3e-3, True), "high rank same": (3e-3, False)}
"""Learning rate and rsLoRA: each at its best of 1e-3 to 3e-2, and plain LoRA at the other's best too."""


@dataclass(frozen=True)
class ClaimsPlan:
    """Subjects in pairs of look-alikes, and how they are trained."""

    settings: Settings
    pairs: int

    @property
    def subjects(self) -> list[str]:
        """Held-out subjects, the two of a pair after one another."""
        return held_out()[: 2 * self.pairs]

    def trainings(self, subject: str) -> dict[str, Watched]:
        """Name -> training of one subject."""
        steps = self.settings.steps
        launch = {"launch_step": steps // 5}
        found = {
            "full": self._one(subject, "full"),
            "lora": self._one(subject, "lora", every=max(1, steps // 10)),
            "dash": self._one(subject, "lora-dash", launch),
            "dash late": self._one(subject, "lora-dash", {"launch_step": 3 * steps // 5}),
            "dash 32": self._one(subject, "lora-dash", launch | {"directions": 32}),
            "spectral 0": self._one(subject, "spectral-a"),
            **{f"dash {it}": self._one(subject, "lora-dash", launch, choice=it) for it in ("top", "bottom", "random")},
        }
        if subject.endswith("b"):
            found["spectral 1"] = self._one(subject, "spectral-a", {"column_offset": 1})
        for name, (lr, rslora) in HIGH_RATES.items():
            own = {"rank": HIGH_RANK, "alpha": STANDARD_ALPHA, "rslora": rslora}
            found[name] = self._one(subject, "lora", own, lr=lr)
        return found

    def fusions(self, subject: str) -> dict[str, Fused]:
        """Name -> fusion of a subject with its look-alike, examined on the subject."""
        other = look_alike_of(subject)
        own, its = self.trainings(subject), self.trainings(other)
        return {
            "lora": Fused(own["lora"], its["lora"]),
            "same columns": Fused(own["spectral 0"], its["spectral 0"]),
            "other columns": Fused(own[own_columns(subject)], its[own_columns(other)]),
        }

    def _one(
        self,
        subject: str,
        method: str,
        own: dict[str, Any] | None = None,
        every: int = 0,
        choice: str = "",
        lr: float | None = None,
    ) -> Watched:
        options = {"rank": RANK, "alpha": float(RANK)} | (own or {})
        token = TOKENS[subject[-1]]
        lr = RATES[method] if lr is None else lr
        task = Task(subject, "dreamtune", method, tuple(sorted(options.items())), lr, 0, self.settings, token=token)
        return Watched(task, every, choice)


def measure(
    plan: ClaimsPlan, folder: Path, workers: int, device: str, quality: dict[str, Any] | None
) -> dict[str, Any]:
    """Do what is missing and return the table with the figures behind it."""

    def tell(line: str) -> None:
        print(line, flush=True)

    names = [(subject, name) for subject in plan.subjects for name in plan.trainings(subject)]
    jobs = [learning(plan.trainings(subject)[name]) for subject, name in names]
    learned: dict[str, dict[str, Any]] = {subject: {} for subject in plan.subjects}
    for (subject, name), result in zip(names, do_all(folder, jobs, workers, device, tell), strict=True):
        learned[subject][name] = result
    merges = [(subject, name) for subject in plan.subjects for name in plan.fusions(subject)]
    jobs = [Job(f"claim fused {subject} {name}", fused, plan.fusions(subject)[name]) for subject, name in merges]
    together: dict[str, dict[str, Any]] = {subject: {} for subject in plan.subjects}
    for (subject, name), result in zip(merges, do_all(folder, jobs, workers, device, tell), strict=True):
        together[subject][name] = result
    seen = {
        name: look([learning(plan.trainings(it)[name]).place(folder, device) for it in plan.subjects])
        for name in ("full", "dash", "spectral 0")
    }
    return {
        "about": machine(device) | {"base": base_digest()},
        "settings": asdict(plan.settings) | {"rates": RATES, "high_rates": HIGH_RATES, "rank": RANK},
        "subjects": plan.subjects,
        "claims": verdicts(plan.subjects, learned, together, seen, truth(plan, folder, device), quality),
        "runs": {subject: {n: _short(it) for n, it in runs.items()} for subject, runs in learned.items()},
        "fused": together,
        "directions": seen,
    }


def truth(plan: ClaimsPlan, folder: Path, device: str) -> dict[str, dict[str, list[int]]]:
    """Subject -> layer -> strongest directions of its full fine-tuning."""
    found = {}
    for subject in plan.subjects:
        place = learning(plan.trainings(subject)["full"]).place(folder, device)
        with AdapterFile.load(kept(place)).attach(base_on(device).unet) as attached:
            found[subject] = {name: it.tolist() for name, it in directions(attached).items()}
    return found


def _short(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "seen"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, metavar="N", help=f"pairs of subjects, 2 to {PAIRS} ({PAIRS})"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (one per core)"
    )
    parser.add_argument("--work", type=Path, default=Path("quality-work"), metavar="DIR", help="finished runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "claims.json", metavar="FILE.json")
    options = parser.parse_args(arguments)
    if not 2 <= options.pairs <= PAIRS or options.workers < 1:
        parser.error(f"--pairs must be 2 to {PAIRS}, and --workers at least 1")
    file = RESULTS / "quality.json"
    quality = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    report = measure(ClaimsPlan(Settings(), options.pairs), options.work, options.workers, pick_device(), quality)
    write_results(options.out, report)
    for claim in report["claims"]:
        print(f"{claim['verdict']:<9} {claim['claim']}: {claim['measured']}")


if __name__ == "__main__":
    main()
