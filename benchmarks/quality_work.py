"""A folder of finished runs, one small JSON each, and the processes that fill it: what is there is not done again."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from dreamtune.evaluation.pocket_judge import digest
from dreamtune.models import load_base
from dreamtune.storage import atomic

RULES = 2
"""Part of every key: a change of how runs are made or measured makes the old ones unreachable."""


@dataclass(frozen=True)
class Job:
    """A function of this project with a frozen argument, whose result is kept under a key of the two and the base."""

    label: str
    """How its file begins."""
    work: Callable[[Any, str, Path], dict[str, Any]]
    """Given `task`, the device and the path, without an ending, beside which it may put other files."""
    task: Any

    def place(self, folder: Path, device: str) -> Path:
        """Where its result is, without an ending: results of different devices are never mixed."""
        told = f"{RULES} {self.work.__module__}.{self.work.__name__} {self.task!r} {base_digest()} {device}"
        return folder / f"{self.label.replace(' ', '-')}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


@cache
def base_digest() -> str:
    """Of the embedded base's weights and of those that judge its pictures."""
    return digest(load_base("pocket", "cpu"))


def result_of(folder: Path, job: Job, device: str) -> dict[str, Any] | None:
    """What the job found, if it has been done."""
    path = _json(job.place(folder, device))
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _json(place: Path) -> Path:
    return place.parent / f"{place.name}.json"  # not with_suffix: labels hold dots


def do_all(
    folder: Path, jobs: Sequence[Job], workers: int, device: str, on_progress: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The results of `jobs` in their order; those that are missing are worked out in `workers` processes.

    Interrupted, it goes on where it was: a result is in the folder as soon as it is known. The first job that fails
    ends it with its error, once those that have begun are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if result_of(folder, job, device) is None]
    if missing:
        began = time.monotonic()
        # spawned: a forked process would share the parent's threads and CUDA, which neither survives
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start) as pool:
            futures = {pool.submit(partial(_do, folder, device), job): job for job in missing}
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    future.result()
                    left = (time.monotonic() - began) / done * (len(missing) - done)
                    on_progress(f"{done}/{len(missing)} {futures[future].label}, about {left / 60:.0f} min left")
            finally:  # after an error, leaving the pool would first do all that still waits
                pool.shutdown(cancel_futures=True)
    results = [result_of(folder, job, device) for job in jobs]
    return [result for result in results if result is not None]


def _start() -> None:
    """One thread each: results are then the same on every number of processes, and threads do not wait for others."""
    torch.set_num_threads(1)


def _do(folder: Path, device: str, job: Job) -> None:
    place = job.place(folder, device)
    result = job.work(job.task, device, place)
    with atomic(_json(place)) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
