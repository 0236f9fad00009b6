"""How a job is shown beside the form that started it: progress, curves, pictures, stop and resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from dreamtune.pipelines.job import UNFINISHED, Job, JobKind
from dreamtune.pipelines.run_view import read_run

from . import fragments
from .actions import resume
from .context import App
from .messages import told

EVERY = 2.0
"""Seconds between two looks at a job that runs; nothing is asked otherwise."""
_SAMPLES = 8
"""Pictures that are shown, the newest."""


class JobPanel:
    """Follows the newest job of some kinds. All it shows comes from the disk: a refresh or restart changes nothing."""

    def __init__(self, app: App, kinds: tuple[JobKind, ...], empty: str) -> None:
        self.app, self.kinds, self.empty = app, kinds, empty
        self.job = gr.State("")
        self.seen = gr.State("")
        self.status = gr.HTML(fragments.hint(empty), elem_classes="dt-status")
        with gr.Row():
            self.stop = gr.Button("Stop", visible=False, size="sm")
            self.resume = gr.Button("Resume", visible=False, size="sm", variant="primary")
        self.samples = gr.HTML("", elem_classes="dt-samples")
        self.timer = gr.Timer(EVERY, active=False)
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.timer.tick(self.show, [self.job, self.seen], self.outputs, **quiet)
        self.stop.click(told(self._stop), [self.job, self.seen], self.outputs, **quiet)
        self.resume.click(told(self._resume), [self.job, self.seen], self.outputs, **quiet)

    @property
    def outputs(self) -> list[Any]:
        """Components that :meth:`show` and :meth:`newest` give values for."""
        return [self.job, self.seen, self.status, self.samples, self.stop, self.resume, self.timer]

    def newest(self) -> tuple[Any, ...]:
        """The job to follow when a page opens: one under way, or else the last that was asked for."""
        mine = [job for job in self.app.jobs.list() if job.kind in self.kinds and job.state != "cancelled"]
        active = [job for job in mine if job.state in UNFINISHED]
        job = (active or sorted(mine, key=lambda it: -it.created) or [None])[0]
        return self.show(job.id if job else "", "")

    def show(self, id: str, seen: str) -> tuple[Any, ...]:
        """The job as it stands; `seen` names the pictures that the page has already."""
        if not id:
            return "", "", fragments.hint(self.empty), "", *([gr.update(visible=False)] * 2), gr.Timer(active=False)
        job = self.app.jobs.get(id)
        shown, samples, key = fragments.progress(job), "", ""
        if self.app.trouble and job.state == "queued":
            shown += f'<p class="dt-bad">{fragments.text(self.app.trouble)}</p>'
        if job.kind == "train":
            run = read_run(job.out)
            shown += fragments.plot("Loss", [("mean of 20 steps", run.losses)])
            shown += fragments.plot("Scores", [("like the subject", run.subject), ("follows the prompt", run.prompt)])
            key = f"{id}:{len(run.samples)}"
            newest = run.samples[-_SAMPLES:]
            if newest and key != seen:
                shots = [(path, f"step {int(path.stem.split('-')[1])}", ()) for path in reversed(newest)]
                samples = fragments.tiles(shots)
        unchanged = bool(key) and key == seen
        return (
            id,
            key,
            shown,
            gr.skip() if unchanged else samples,
            gr.update(visible=job.state == "running"),
            gr.update(visible=job.resumable),
            gr.Timer(active=job.state in UNFINISHED),
        )

    def then(self, action: Callable[..., Any], inputs: list[Any]) -> Any:
        """Whenever the state of the followed job changes on the page."""
        return self.status.change(action, inputs, queue=False, show_progress="hidden", api_visibility="private")

    def follow(self, job: Job) -> tuple[Any, ...]:
        """Show this job from now on."""
        return self.show(job.id, "")

    def _stop(self, id: str, seen: str) -> tuple[Any, ...]:
        self.app.jobs.stop(id)
        return self.show(id, seen)

    def _resume(self, id: str, seen: str) -> tuple[Any, ...]:
        return self.follow(resume(self.app, id))
