"""The tab Jobs: the queue, what has ended, and the logs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import gradio as gr

from dreamtune.errors import ConfigError
from dreamtune.pipelines.jobs.job import UNFINISHED, Job

from .. import fragments
from ..actions import resume
from ..context import App
from ..messages import note, told
from ..theme import script

SHOWN = 50
"""Jobs that are listed."""
EVERY = 2.0
"""Seconds between two looks while something is under way."""


class JobsTab:
    """Components of the tab, and what they do."""

    def __init__(self, app: App) -> None:
        self.app = app
        with gr.Column(elem_classes="dt-panel"):
            gr.Markdown(
                "### Jobs\nJobs run one after another, even while this page is closed. Interrupted ones can be resumed."
            )
            self.table = gr.HTML("", js_on_load=script("clicks.js"), elem_id="jobs")
            self.refresh = gr.Button("Refresh", size="sm", elem_classes="dt-small")
            self.log = gr.HTML("", elem_classes="dt-log", elem_id="jobs-log")
        self.timer = gr.Timer(EVERY, active=False)
        private: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
        self.timer.tick(self.open, None, self.opened, **private)
        self.refresh.click(told(self.open), None, self.opened, **private)
        self.table.click(told(self._clicked), None, [*self.opened, self.log], **private)

    @property
    def opened(self) -> list[Any]:
        """Components that :meth:`open` fills."""
        return [self.table, self.timer]

    def open(self) -> tuple[Any, ...]:
        """The jobs as they are now."""
        jobs = self.app.jobs.list()[:SHOWN]
        if not jobs:
            return fragments.hint("No jobs yet."), gr.Timer(active=False)
        rows = [
            (
                fragments.text(job.id),
                f"{fragments.text(job.title)}<br><small>{fragments.text(job.kind)}</small>",
                _state(job),
                _when(job),
                _verbs(job),
            )
            for job in jobs
        ]
        active = any(job.state in UNFINISHED for job in jobs)
        return fragments.table(("", "Job", "State", "Submitted", ""), rows, "Jobs"), gr.Timer(active=active)

    def _clicked(self, event: gr.EventData) -> tuple[Any, ...]:
        data = event._data if isinstance(event._data, dict) else {}
        verb, id = str(data.get("verb", "")), str(data.get("id", ""))
        log: Any = gr.skip()
        if verb == "stop":
            self.app.jobs.stop(id)
            note(f"asked job {id} to stop")
        elif verb == "resume":
            resume(self.app, id)
        elif verb == "cancel":
            self.app.jobs.cancel(id)
        elif verb in ("up", "down"):
            place = self.app.jobs.get(id).position or 1
            self.app.jobs.move(id, max(1, place + (-1 if verb == "up" else 1)))
        elif verb == "log":
            lines = self.app.jobs.log(id)
            lines = lines or "No output."
            log = f"<h4>Log of job {fragments.text(id)}</h4><pre>{fragments.text(lines)}</pre>"
        else:
            raise ConfigError(f"unknown job action {verb[:20]!r}: use the buttons")
        return *self.open(), log


def _state(job: Job) -> str:
    parts = [fragments.state(job)]
    if job.state in UNFINISHED and job.total:
        parts.append(f"<small>{fragments.text(job.phase)} {job.done} of {job.total}</small>")
    if job.state == "queued":
        parts.append(f"<small>number {job.position}</small>")
    if job.message and job.state not in ("done", "queued"):
        parts.append(f"<br><small>{fragments.text(job.message)}</small>")
    return " ".join(parts)


def _when(job: Job) -> str:
    return fragments.text(datetime.fromtimestamp(job.created).strftime("%d %b, %H:%M"))


def _verbs(job: Job) -> str:
    verbs = {"running": ["stop"], "stopping": ["stop"], "queued": ["up", "down", "cancel"]}.get(job.state, [])
    verbs += ["resume"] * job.resumable + ["log"] * (job.state not in ("queued", "cancelled"))
    return "".join(fragments.button(verb, job.id, verb.capitalize(), job.title) for verb in verbs)
