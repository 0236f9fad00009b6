"""The public view of one job in the queue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

JobKind = Literal["train", "fuse", "analyze", "evaluate"]
JobState = Literal["queued", "running", "stopping", "done", "failed", "interrupted", "cancelled"]
UNFINISHED: tuple[JobState, ...] = ("queued", "running", "stopping")
"""States that are not final."""


@dataclass(frozen=True)
class Job:
    """The current state of one job."""

    id: str
    """A number that is never reused within the same home."""
    kind: JobKind
    title: str
    state: JobState
    out: Path
    """Absolute path of the run folder, report folder or file that it writes."""
    created: float
    """Seconds since 1970, as all times here."""
    started: float | None
    """When its process last started."""
    finished: float | None
    """None also if its process died without reporting and no worker saw it."""
    done: int | None
    """Units of `phase` that are done: for phase "train" optimizer steps, from metrics.jsonl."""
    total: int | None
    phase: str | None
    """Current or last phase, as in :class:`~dreamtune.pipelines.progress.Progress`."""
    eta: float | None
    """Seconds until `phase` ends; None unless the job is running."""
    message: str | None
    """Last remark of a running job; the error of a failed or interrupted one, as the CLI prints it; else None."""
    resumable: bool
    """Whether :meth:`~dreamtune.pipelines.jobs.queue.Jobs.resume` can resume it."""
    position: int | None
    """Place in the queue: 1 is the next to run. None unless queued."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {"out": str(self.out)}
