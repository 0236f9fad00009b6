"""What is known of one job of the queue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

JobKind = Literal["train", "fuse", "analyze", "evaluate"]
JobState = Literal["queued", "running", "stopping", "done", "failed", "interrupted", "cancelled"]
UNFINISHED: tuple[JobState, ...] = ("queued", "running", "stopping")
"""States that a job leaves by itself."""


@dataclass(frozen=True)
class Job:
    """One job as it stands at this moment."""

    id: str
    """A number, which no later job of the same home gets again."""
    kind: JobKind
    title: str
    state: JobState
    out: Path
    """Run folder, report folder or file that it writes; absolute."""
    created: float
    """Seconds since 1970, as all times here."""
    started: float | None
    """When its process began last."""
    finished: float | None
    """None also where a process ended without a word and nobody saw it."""
    done: int | None
    """Parts of `phase` that are done: for phase "train" optimizer steps, as metrics.jsonl has them."""
    total: int | None
    phase: str | None
    """What is being done, or was last, as in :class:`~dreamtune.pipelines.progress.Progress`."""
    eta: float | None
    """Seconds until `phase` is over; None unless it runs."""
    message: str | None
    """Last remark of a job that runs; why one failed or was interrupted, in the command line's words; else None."""
    resumable: bool
    """Whether :meth:`~dreamtune.pipelines.jobs.queue.Jobs.resume` goes on with it."""
    position: int | None
    """Place in the queue: 1 is the next to run. None unless queued."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {"out": str(self.out)}
