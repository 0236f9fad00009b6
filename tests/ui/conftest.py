"""An app of the tests: its own folder, no worker, and an adapter and pictures in it."""

import os
from pathlib import Path

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from dreamtune.pipelines.jobs.queue import Jobs
from dreamtune.pipelines.jobs.worker import WorkerProcess
from dreamtune.pipelines.workspace import Workspace
from dreamtune.ui.context import App
from tests.tiny_models import pictures


class Idle(WorkerProcess):
    """A worker that is asked for and never begins."""

    asked = 0

    def ensure(self) -> None:
        self.asked += 1


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def worker(workspace: Workspace) -> Idle:
    return Idle(workspace.jobs)


@pytest.fixture
def app(workspace: Workspace, worker: Idle) -> App:
    pictures(workspace.datasets / "mine")
    return App(workspace, Jobs(workspace.jobs), worker)
