"""State shared by all parts of the app."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from dreamtune.errors import DreamtuneError
from dreamtune.pipelines.jobs.queue import Jobs
from dreamtune.pipelines.jobs.worker import WorkerProcess
from dreamtune.pipelines.workspace import Workspace

KEEP = (3600, 86400)
"""Every how many seconds uploads and copies are swept, and how old they may become."""


@dataclass
class App:
    """One served app."""

    workspace: Workspace
    jobs: Jobs
    worker: WorkerProcess
    trouble: str = ""
    """Why there is no worker; empty while nothing is wrong."""
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def call_worker(self) -> threading.Thread:
        """See to it that a worker is there, without waiting for the seconds that it takes to begin."""
        thread = threading.Thread(target=self._ensure, daemon=True)
        thread.start()
        return thread

    def _ensure(self) -> None:
        with self._mutex:
            try:
                self.worker.ensure()
                self.trouble = ""
            except DreamtuneError as error:
                self.trouble = str(error)
