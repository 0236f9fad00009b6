"""The tab Analyze: which directions adapters change, how they interfere, and scores against images."""

from __future__ import annotations

import shutil
from typing import Any

import gradio as gr

from dreamtune.errors import ConfigError

from .. import actions, fragments
from ..context import App
from ..messages import told
from ..panel import JobPanel
from ..picker import adapter_choices


class AnalyzeTab:
    """Components of the tab, and what they do."""

    def __init__(self, app: App) -> None:
        self.app = app
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes="dt-panel"):
                gr.Markdown("### Compare adapters")
                self.names = gr.Dropdown(
                    adapter_choices(app),
                    value=[],
                    multiselect=True,
                    label="Adapters",
                    info="One: its health. Two or more: a comparison.",
                )
                with gr.Accordion("More settings", open=False):
                    with gr.Row():
                        self.top = gr.Slider(
                            1, 64, 8, step=1, label="Directions", info="Top directions per layer.", min_width=150
                        )
                        self.steps = gr.Number(
                            0,
                            label="Steps",
                            info="Denoising steps; 0: preset.",
                            precision=0,
                            minimum=0,
                            min_width=150,
                        )
                    self.disturb = gr.Checkbox(
                        True,
                        label="Interference",
                        info="Generate with each, and measure how much the others interfere.",
                    )
                    self.times = gr.Checkbox(False, label="Timestep profile", info="When each adapter acts.")
                self.start = gr.Button("Analyze", variant="primary", elem_id="analyze-start")
                with gr.Accordion("Score one against images", open=False):
                    self.one = gr.Dropdown(adapter_choices(app), value=None, label="Adapter")
                    self.dataset = gr.Dropdown(
                        list(app.workspace.all_datasets()), value=None, label="Images of its subject"
                    )
                    self.score = gr.Button("Score")
            with gr.Column(scale=6, min_width=320, elem_classes="dt-panel"):
                gr.Markdown("### Report")
                self.panel = JobPanel(app, ("analyze", "evaluate"), "Nothing has been analyzed yet.")
                self.reports = gr.Dropdown([], label="Reports", info="Newest first.", elem_id="analyze-reports")
                self.download = gr.DownloadButton("Download", visible=False, size="sm")
        self.page = gr.HTML("", elem_id="analyze-page")
        private: dict[str, Any] = {"api_visibility": "private"}
        inputs = [self.names, self.top, self.steps, self.disturb, self.times]
        self.start.click(told(self._analyze), inputs, self.panel.outputs, **private)
        self.score.click(told(self._score), [self.one, self.dataset], self.panel.outputs, **private)
        self.panel.then(self._finished, [self.panel.job, self.reports], [self.reports])
        self.reports.change(told(self._report), self.reports, [self.page, self.download], **private)

    def _analyze(self, names: list[str], top: int, steps: int | None, disturb: bool, times: bool) -> tuple[Any, ...]:
        options: dict[str, Any] = {"top_k": int(top), "interference": disturb, "timestep_profile": times}
        options |= {} if not steps else {"steps": steps}
        return self.panel.follow(actions.analyze(self.app, names or [], "", options))

    def _score(self, name: str | None, dataset: str | None) -> tuple[Any, ...]:
        if not name or not dataset:
            raise ConfigError("choose an adapter and images of its subject")
        return self.panel.follow(actions.evaluate(self.app, name, dataset))

    def _finished(self, id: str, shown: str | None) -> Any:
        """When the job that is followed is done, its report is the one to see."""
        reports = list(self.app.workspace.all_reports())
        job = self.app.jobs.get(id) if id else None
        mine = job.out.name if job is not None and job.state == "done" else shown
        return gr.update(choices=reports, value=mine if mine in reports else None)

    def _report(self, name: str | None) -> tuple[Any, Any]:
        if not name:
            return "", gr.update(visible=False)
        folder = self.app.workspace.report(name)
        page = (folder / "report.html").read_text(encoding="utf-8")
        archive = self.app.workspace.exports / f"{name}.zip"
        if not archive.exists():
            shutil.make_archive(str(archive.with_suffix("")), "zip", folder)
        # in a frame without rights: whatever a name in it spells, nothing of it runs
        label, content = fragments.text(name), fragments.text(page)
        frame = f'<iframe class="dt-report" sandbox title="Report {label}" srcdoc="{content}"></iframe>'
        return frame, gr.update(visible=True, value=str(archive))

    @property
    def opened(self) -> list[Any]:
        """Components that :meth:`open` fills."""
        return [self.names, self.one, self.dataset, self.reports, *self.panel.outputs]

    def open(self) -> tuple[Any, ...]:
        """Adapters, reports and the newest analysis as they are now."""
        adapters = gr.update(choices=adapter_choices(self.app))
        sets, reports = list(self.app.workspace.all_datasets()), list(self.app.workspace.all_reports())
        return adapters, adapters, gr.update(choices=sets), gr.update(choices=reports), *self.panel.newest()
