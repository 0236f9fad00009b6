"""Shows a job beside the form that started it: progress, curves, images, stop and resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from dreamtune.pipelines.jobs.job import UNFINISHED, Job, JobKind
from dreamtune.pipelines.library import warning_of
from dreamtune.pipelines.train.run_view import read_run

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
        self.seen = gr.Textbox("", label="Seen", visible="hidden")  # a State would not tell that it has changed
        self.status = gr.HTML(fragments.hint(empty), elem_classes="dt-status")
        with gr.Row():
            self.stop = gr.Button("Stop", visible=False, size="sm")
            self.resume = gr.Button("Resume", visible=False, size="sm", variant="primary")
        self.samples = gr.HTML("", elem_classes="dt-samples")
        self.timer = gr.Timer(EVERY, active=False)
        self.then(self._changed, [self.job], [self.samples, self.stop, self.resume, self.timer])
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.timer.tick(self._look, self.job, self.outputs[1:], **quiet)
        self.stop.click(told(self._stop), self.job, self.outputs, **quiet)
        self.resume.click(told(self._resume), self.job, self.outputs, **quiet)

    @property
    def outputs(self) -> list[Any]:
        """Components that :meth:`follow` and :meth:`newest` give values for."""
        return [self.job, self.seen, self.status]

    def newest(self) -> tuple[Any, ...]:
        """The job to follow when a page opens: one under way, or else the last that was asked for."""
        mine = [job for job in self.app.jobs.list() if job.kind in self.kinds and job.state != "cancelled"]
        active = [job for job in mine if job.state in UNFINISHED]
        job = (active or sorted(mine, key=lambda it: -it.created) or [None])[0]
        return self.follow(job)

    def follow(self, job: Job | None) -> tuple[Any, ...]:
        """Show this job from now on."""
        return job.id if job else "", *self._look(job.id if job else "")

    def _look(self, id: str) -> tuple[str, str]:
        """All that each look asks for: which job in which state, and its progress. Every component costs time."""
        if not id:
            return "", fragments.hint(self.empty)
        job = self.app.jobs.get(id)
        shown, samples = fragments.progress(job), 0
        if self.app.trouble and job.state == "queued":
            shown += f'<p class="dt-bad">{fragments.text(self.app.trouble)}</p>'
        if job.kind == "fuse" and job.state == "done" and (warning := warning_of(job.out)):
            shown = f'<p class="dt-bad">{fragments.text(warning)}</p>' + shown
        if job.kind == "train":
            run = read_run(job.out)
            shown += fragments.plot("Loss", [("mean over 20 steps", run.losses)])
            shown += fragments.plot("Scores", [("subject", run.subject), ("prompt", run.prompt)])
            samples = len(run.samples)
        return f"{id} {job.state} {samples}", shown

    def _changed(self, id: str) -> tuple[Any, ...]:
        """What only another job, state or picture changes."""
        job = self.app.jobs.get(id) if id else None
        newest = read_run(job.out).samples[-_SAMPLES:] if job and job.kind == "train" else ()
        shots = [(path, f"step {int(path.stem.split('-')[1])}", ()) for path in reversed(newest)]
        return (
            fragments.tiles(shots) if shots else "",
            gr.update(visible=job is not None and job.state in ("running", "stopping"), value=_stop_label(job)),
            gr.update(visible=job is not None and job.resumable),
            gr.Timer(active=job is not None and job.state in UNFINISHED),
        )

    def then(self, action: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """Whenever the page learns of another job, another state, or another picture."""
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.seen.change(action, inputs, outputs, **quiet)  # not of the status, which is another at every look

    def _stop(self, id: str) -> tuple[Any, ...]:
        return self.follow(self.app.jobs.stop(id))

    def _resume(self, id: str) -> tuple[Any, ...]:
        return self.follow(resume(self.app, id))


def _stop_label(job: Job | None) -> str:
    """A second stop kills, for what does not listen to the first."""
    return "Force stop" if job is not None and job.state == "stopping" else "Stop"
