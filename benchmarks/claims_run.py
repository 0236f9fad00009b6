"""The runs behind the table of claims: trainings that are watched, compared and fused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality_run import Task, attached_by, base_on, examiner, train
from benchmarks.quality_work import Job
from dreamtune.adapters import AdapterFile, AttachedAdapter, Delta
from dreamtune.adapters.methods.lora_dash import LoRADash
from dreamtune.adapters.svd import Svd, default_store
from dreamtune.analysis import change_rates, study, tsd
from dreamtune.models import Base
from dreamtune.pipelines.fuse.run import FuseConfig, fuse
from dreamtune.training.trainer import StepRecord

K = 8
"""Task-specific directions of a layer, as in the paper."""
TOKENS = {"a": "sks", "b": "zwx"}
"""The two of a pair of look-alikes have words of their own, so that they can be fused."""


@dataclass(frozen=True)
class Watched:
    """A training of dreamtune whose adapter is kept."""

    task: Task
    every: int = 0
    """Write down the strongest directions every so many steps; 0 does not."""
    choice: str = ""
    """LoRA-Dash with other directions than the method's own, from its launch on: top, bottom or random."""


@dataclass(frozen=True)
class Fused:
    """Two adapters as one, examined on the subject of the first."""

    own: Watched
    other: Watched


def own_columns(subject: str) -> str:
    """The training, of a subject and its look-alike, whose columns the other one does not use."""
    return "spectral 1" if subject.endswith("b") else "spectral 0"


def learning(watched: Watched) -> Job:
    """The job of a training."""
    task = watched.task
    what = "-".join(f"{name}{value}" for name, value in task.options if name != "alpha")
    return Job(f"claim {task.subject} {task.method} {what} {task.lr:g} {watched.choice}".rstrip(), learn, watched)


def learn(watched: Watched, device: str, place: Path) -> dict[str, Any]:
    """Train, examine, and keep the adapter beside the result; as a job."""
    task, base = watched.task, base_on(device)
    options = task.options
    launch = dict(options).get("launch_step", 0)
    if watched.choice:  # it must not launch by itself
        options = tuple(sorted((dict(options) | {"launch_step": task.settings.steps}).items()))
    seen: dict[int, dict[str, list[int]]] = {}
    with attached_by(base, task.toolkit, task.method, options, task.seed) as attached:
        assert isinstance(attached, AttachedAdapter)
        own = attached

        def on_step(record: StepRecord) -> None:
            if watched.every and record.step % watched.every == 0:
                seen[record.step] = {name: it.tolist() for name, it in directions(own).items()}
            if watched.choice and record.step == launch:
                choose_directions(own, watched.choice)

        trained = train(base, attached, task, on_step)
        evaluation = examiner(device, task.subject, task.token, task.settings.drawing_steps, True)
        figures: dict[str, Any] = evaluation.measure(attached)[0]
        keep(attached, base, task, place)
    return figures | {"cpu_seconds": round(trained.cpu_seconds, 2), "seen": seen}


def keep(attached: AttachedAdapter, base: Base, task: Task, place: Path) -> None:
    """Write the adapter file of a job."""
    cls = task.subject.split()[0]
    file = AdapterFile.from_attached(attached, base=base.id, token=task.token, class_word=cls, training={})
    file.save(kept(place))


def kept(place: Path) -> Path:
    """Where a job's adapter is."""
    return place.parent / f"{place.name}.safetensors"


def directions(attached: AttachedAdapter) -> dict[str, Tensor]:
    """Layer -> indices of its 2K strongest directions now, by falling δ."""
    store = default_store()
    with torch.no_grad():
        return {
            path: tsd(store.full(layer.base_weight), Delta.of_adapter(adapter, layer.base_weight), 2 * K)
            for path, layer, adapter in attached.layers()
        }


def choose_directions(attached: AttachedAdapter, choice: str) -> None:
    """Launch every LoRA-Dash with other directions: of the largest or smallest σ, or any."""
    for path, layer, adapter in attached.layers():
        assert isinstance(adapter, LoRADash)
        svd = default_store().full(layer.base_weight)
        count, n = len(adapter.indices), len(svd.s)
        picked = {
            "top": list(range(count)),
            "bottom": list(range(n - count, n)),
            "random": Random(f"claims {path}").sample(range(n), count),
        }[choice]
        adapter.load_state_dict(adapter.state_dict() | _launched(svd, torch.tensor(picked)))


def _launched(svd: Svd, indices: Tensor) -> dict[str, Tensor]:
    return {
        "left": svd.u.T[indices],
        "right": svd.v.T[indices],
        "sigma": svd.s[indices],
        "indices": indices,
        "launched": torch.tensor(1),
    }


def fused(task: Fused, device: str, place: Path) -> dict[str, Any]:
    """The subject's figures with both adapters summed, as a job; the two must have been learned."""
    base, out = base_on(device), kept(place)
    out.unlink(missing_ok=True)
    files = tuple(str(kept(job.place(place.parent, device))) for job in (learning(task.own), learning(task.other)))
    fuse(FuseConfig(adapters=files), out, lambda _: None)
    learned = task.own.task
    with AdapterFile.load(out).attach(base.unet) as attached:
        evaluation = examiner(device, learned.subject, learned.token, learned.settings.drawing_steps, True)
        return evaluation.measure(attached)[0]


def look(places: list[Path]) -> dict[str, Any]:
    """What the analyzer says of adapters of one base: per adapter and per pair, means over layers."""
    base, store = base_on("cpu"), default_store()
    files = [AdapterFile.load(kept(place)) for place in places]
    adapters = [file.adapters() for file in files]
    layers = []
    for path in files[0].layers:
        weight = base.unet.get_submodule(path).get_parameter("weight")
        svd = store.full(weight)
        changes = {i: Delta.of_adapter(own[path], weight) for i, own in enumerate(adapters)}
        terms = {i: own[path].terms(weight) for i, own in enumerate(adapters)}
        shares = {i: _share_of_first(change_rates(svd, change)) for i, change in changes.items()}
        ranks = {i: change.rank for i, change in changes.items()}
        layers.append((study(path, weight, svd, changes, K, terms), shares, ranks, len(svd.s)))
    return {
        "adapters": [_of_adapter(layers, i) for i in range(len(files))],
        "shared": {
            f"{pair.a}-{pair.b}": _mean([p.shared for layer, *_ in layers for p in layer.pairs if _same(p, pair)])
            for pair in layers[0][0].pairs
        },
        "chance": {
            f"{pair.a}-{pair.b}": _mean([p.chance for layer, *_ in layers for p in layer.pairs if _same(p, pair)])
            for pair in layers[0][0].pairs
        },
        "smallest_place": _mean([(n - (K + 1) / 2) / (n - 1) for *_, n in layers]),
    }


def _same(one: Any, other: Any) -> bool:
    return (one.a, one.b) == (other.a, other.b)


def _of_adapter(layers: list[Any], i: int) -> dict[str, Any]:
    seen = [layer.seen[i] for layer, *_ in layers]
    amplified = {name: _mean([it.amplification.get(name) for it in seen]) for name in ("all", "AB", "dash")}
    return {
        "place": _mean([it.position.index if it.position else None for it in seen]),
        "share_of_first": _mean([shares[i] for _, shares, *_ in layers]),
        "ranks": sorted({ranks[i] for _, _, ranks, _ in layers}),
        "amplification": amplified,
    }


def _share_of_first(rates: Tensor) -> float:
    """Share of the sum of all δ that the K strongest directions have."""
    return float(rates.sort(descending=True).values[:K].sum() / rates.sum())


def _mean(values: list[Any]) -> float | None:
    there = [float(value) for value in values if value is not None]
    return round(sum(there) / len(there), 5) if there else None
