"""What all parts of the app share."""

from __future__ import annotations

from dataclasses import dataclass

from dreamtune.pipelines.jobs import Jobs
from dreamtune.pipelines.worker import WorkerProcess
from dreamtune.pipelines.workspace import Workspace

DEVICE = "device"
"""Events of this concurrency id load a base; one of them runs at a time."""


@dataclass(frozen=True)
class App:
    """One served app."""

    workspace: Workspace
    jobs: Jobs
    worker: WorkerProcess
