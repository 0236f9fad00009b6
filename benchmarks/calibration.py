"""python -m benchmarks.calibration [--work DIR] [--out DIR] [--steps N]: how good the forecast of interference is.

Takes the adapters of `benchmarks.pairs` (six subjects that the embedded base has never seen, by three trainings each;
the same work folder serves both), has `analyze` forecast how much each disturbs each other one of its training
(crosstalk X), then adds them to each other and measures how much of the subject fidelity is lost: 45 pairs, both ways.
Writes calibration.json: the rank correlation of the loss with X, and with what else the analyzer says of a pair, with
bootstrap intervals over the subjects, and the loss by size of X. Resumable: trainings and measurements that lie in the
work folder are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import dreamtune
from benchmarks.machine import RESULTS, machine, write_results
from benchmarks.pairs_people import PEOPLE, RANK, TRAININGS, trained
from benchmarks.pairs_people import STEPS as TRAINING_STEPS
from benchmarks.quality_work import base_digest
from dreamtune.analysis.overlap import spearman
from dreamtune.evaluation import default_prompts, subject_fidelity
from dreamtune.evaluation.pocket_judge import PocketJudge
from dreamtune.models import Base, load_base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.analyze.report import Report
from dreamtune.pipelines.fuse.explain import CALIBRATION
from dreamtune.pocket import photographs
from dreamtune.storage import atomic

STEPS, GUIDANCE = 12, USUAL["pocket"].guidance
"""Of the drawings that are judged: ten with each adapter alone, and ten with each other one added."""
RENDERS = 12
RESAMPLES = 2000

Way = tuple[str, int, int]
"""(training, i, j): the adapter of subject i draws, that of j is added; i = j: it is alone."""
WAYS: tuple[Way, ...] = tuple(
    (training, i, j) for training in TRAININGS for i in range(len(PEOPLE)) for j in range(len(PEOPLE))
)


def fidelities(files: Mapping[tuple[str, str], Path], path: Path) -> dict[Way, float]:
    """Way -> subject fidelity of i's pictures, from the base's class pictures (0) to real ones (1).

    files: (training, token) -> adapter. What is in the file `path` is not measured again; the rest is added to it.
    """
    uses = {key: AdapterRef.load(str(file)) for key, file in files.items()}
    digests = [use.digest for use in uses.values()]
    stored = json.loads(path.read_text()) if path.is_file() else {"adapters": digests, "fidelities": {}}
    if stored["adapters"] != digests:
        raise SystemExit(f"{path} was measured with other adapters: remove it, or take another --work")
    known = stored["fidelities"]
    base, judge = load_base("pocket"), PocketJudge.load()
    for i, person in enumerate(PEOPLE):
        references, real = (judge.identity(photographs(person.subject, RENDERS, seed=1_000 + k)) for k in (0, 1))
        prompts = default_prompts(person.token, person.cls)
        bare = judge.identity(draw(base, [prompt.bare for prompt in prompts]))
        for training, _, j in (way for way in WAYS if way[1] == i and str(way) not in known):
            with ExitStack() as stack:
                for number in sorted({i, j}):
                    stack.enter_context(uses[training, PEOPLE[number].token].on(base))
                named = judge.identity(draw(base, [prompt.named for prompt in prompts]))
            known[str((training, i, j))] = subject_fidelity(named, bare, references, real).share
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(stored))
            print(training, person.token, "with", PEOPLE[j].token, f"{known[str((training, i, j))]:.3f}", flush=True)
    return {way: known[str(way)] for way in WAYS}


def draw(base: Base, prompts: Sequence[str]) -> list[Image.Image]:
    """A picture for each, the i-th from the noise of seed i."""
    latents = base.draw(prompts, range(len(prompts)), size=base.resolution, steps=STEPS, guidance=GUIDANCE)
    return base.to_pictures(latents)


def predictors(training: str, report: Report) -> dict[str, dict[Way, float]]:
    """What the analyzer says of every ordered pair of one training's adapters, by name."""
    told = report.to_dict()
    crosstalk = told["interference"]["crosstalk"]
    found: dict[str, dict[Way, float]] = {"crosstalk": {}, "overlap_above_chance": {}, "cosine": {}, "subspaces": {}}
    for pair in told["pairs"]:
        for i, j in permutations((pair["a"], pair["b"])):
            way = (training, i, j)
            found["crosstalk"][way] = crosstalk[i][j]
            found["overlap_above_chance"][way] = pair["overlap"] - pair["overlap_chance"]
            found["cosine"][way] = pair["cosine"]
            found["subspaces"][way] = pair["right"]
    return found


def correlation(values: Mapping[Way, float], losses: Mapping[Way, float]) -> dict[str, float | None]:
    """Spearman's ρ over all ways, with its 95 % percentile interval by resampling subjects (Efron and Tibshirani 1993).

    Ways share subjects and are no independent samples. A subject drawn twice brings its ways twice, none with itself.
    """
    trainings = sorted({training for training, *_ in losses})
    count = 1 + max(i for _, i, _ in losses)
    x, y = torch.full((2, len(trainings), count, count), torch.nan, dtype=torch.float64)
    for training, i, j in losses:
        at = trainings.index(training), i, j
        x[at], y[at] = values[training, i, j], losses[training, i, j]
    draws = torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))
    found = [_spearman(x[:, own][:, :, own], y[:, own][:, :, own]) for own in draws]
    low, high = np.quantile([rho for rho in found if rho is not None], (0.025, 0.975)).tolist()
    return {"spearman": _spearman(x, y), "low": low, "high": high}


def _spearman(x: Tensor, y: Tensor) -> float | None:
    there = y.isfinite()  # the diagonal is not
    return spearman(x[there], y[there])


def by_size(values: Mapping[Way, float], losses: Mapping[Way, float], parts: int = 3) -> list[dict[str, float | int]]:
    """Losses of the ways in `parts` equal parts, from the smallest to the largest value: median and quartiles."""
    ordered, rows = sorted(losses, key=lambda way: values[way]), []
    for part in range(parts):
        own = ordered[len(ordered) * part // parts : len(ordered) * (part + 1) // parts]
        low, median, high = (float(q) for q in np.quantile([losses[way] for way in own], (0.25, 0.5, 0.75)))
        rows.append({"from": values[own[0]], "to": values[own[-1]], "ways": len(own)})
        rows[-1] |= {"quarter": low, "median": median, "three_quarters": high}
    return rows


def summary(found: Mapping[str, Mapping[Way, float]], fidelity: Mapping[Way, float]) -> dict[str, Any]:
    """All figures that follow from forecasts and measurements."""
    losses = {(t, i, j): fidelity[t, i, i] - value for (t, i, j), value in fidelity.items() if i != j}
    alone = [value for (_, i, j), value in fidelity.items() if i == j]
    same = [loss for (_, i, j), loss in losses.items() if PEOPLE[i].cls == PEOPLE[j].cls]
    other = [loss for (_, i, j), loss in losses.items() if PEOPLE[i].cls != PEOPLE[j].cls]
    trainings = sorted({training for training, *_ in losses})
    by_training = {name: {way: loss for way, loss in losses.items() if way[0] == name} for name in trainings}
    return {
        "pairs": len(losses) // 2,
        "fidelity_alone": {"mean": float(np.mean(alone)), "least": min(alone)},
        "loss": {"same_class": float(np.mean(same)), "two_classes": float(np.mean(other))}
        | {name: float(np.mean(list(own.values()))) for name, own in by_training.items()},
        "correlation": {name: correlation(values, losses) for name, values in found.items()},
        "correlation_within": {name: correlation(found["crosstalk"], own) for name, own in by_training.items()},
        "loss_by_crosstalk": by_size(found["crosstalk"], losses),
        "ways": [
            {"training": way[0], "drawing": way[1], "added": way[2], "loss": loss}
            | {name: values[way] for name, values in found.items()}
            for way, loss in losses.items()
        ],
    }


def excerpt(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `dreamtune fuse --explain` needs of a calibration."""
    return {
        "base": result["base"],
        "pairs": result["pairs"],
        "correlation": {"crosstalk": result["correlation"]["crosstalk"]},
        "loss_by_crosstalk": result["loss_by_crosstalk"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("pairs-work"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, default=TRAINING_STEPS, help="of each training (as the preset has it)")
    options = parser.parse_args(arguments)
    files = {
        (training, person.token): trained(person, training, options.work, options.steps)
        for training in TRAININGS
        for person in PEOPLE
    }
    found: dict[str, dict[Way, float]] = {}
    for training in TRAININGS:
        own = [file for (name, _), file in files.items() if name == training]
        for name, values in predictors(training, dreamtune.analyze(own)).items():
            found.setdefault(name, {}).update(values)
    measured = fidelities(files, options.work / "fidelities.json")
    result = {
        "machine": machine(),
        "base": base_digest(),
        "training": {"trainings": TRAININGS, "rank": RANK, "steps": options.steps},
        "drawing": {"steps": STEPS, "guidance": GUIDANCE, "pictures": len(default_prompts("sks", "dog"))},
        "subjects": [{"class": person.cls, "token": person.token} for person in PEOPLE],
        **summary(found, measured),
    }
    write_results(options.out / "calibration.json", result)
    if options.out == RESULTS:  # what goes with the package
        write_results(CALIBRATION, excerpt(result))
    for name, figures in result["correlation"].items():
        print(f"{name:22} ρ {figures['spearman']:+.2f} ({figures['low']:+.2f} to {figures['high']:+.2f})")


if __name__ == "__main__":
    main()
