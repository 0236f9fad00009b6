"""The tab Fuse: several adapters become one, or act in boxes of one image."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreamtune.names import FUSIONS
from dreamtune.pipelines.progress import Progress

from .. import actions, fragments
from ..boxes import Boxes
from ..calls import DEVICE, on_device
from ..context import App
from ..messages import told, warn
from ..panel import JobPanel
from ..picker import Picker


class FuseTab:
    """Components of the tab, and what they do."""

    def __init__(self, app: App) -> None:
        self.app = app
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes="dt-panel"):
                gr.Markdown("### Fuse adapters into one file")
                self.picker = Picker(app, "Adapters", "Two to four, each with its own token.", "weight")
                self.method = gr.Dropdown(
                    [(f"{name}: {words}", name) for name, words in FUSIONS.items()], value="sum", label="Method"
                )
                self.name = gr.Textbox("", label="Name", placeholder="the adapters' names")
                with gr.Accordion("More settings", open=False):
                    self.density = gr.Slider(
                        0.05,
                        1.0,
                        0.5,
                        step=0.05,
                        label="Density",
                        info="Share of the entries that ties, dare, magnitude and knots keep.",
                    )
                    self.balance = gr.Checkbox(
                        False, label="Balance", info="First scale all changes of a layer to the same norm."
                    )
                    self.text = gr.Slider(
                        0.0,
                        2.0,
                        1.0,
                        step=0.05,
                        label="Text encoder strength",
                        info="Extra factor on the adapters' strength in text encoders.",
                    )
                    self.whole = gr.Checkbox(
                        False,
                        label="Full rank",
                        info="Keep the exact result: a larger file if it has no small factors.",
                    )
                with gr.Row():
                    self.look = gr.Button("Forecast", elem_id="fuse-forecast")
                    self.start = gr.Button("Fuse", variant="primary", elem_id="fuse-start")
            with gr.Column(scale=6, min_width=320, elem_classes="dt-panel"):
                gr.Markdown("### Result")
                self.forecast = gr.HTML("", elem_id="fuse-told")
                self.panel = JobPanel(
                    app,
                    ("fuse",),
                    "Choose adapters. Forecast estimates how much they interfere with each other.",
                )
        with gr.Column(elem_classes="dt-panel"):
            self.boxes = Boxes(app)
        private: dict[str, Any] = {"api_visibility": "private"}
        self.look.click(
            told(on_device(self._forecast)),
            self.picker.inputs,
            self.forecast,
            concurrency_id=DEVICE,
            concurrency_limit=1,
            **private,
        )
        inputs = [self.method, self.name, self.density, self.balance, self.whole, self.text, *self.picker.inputs]
        self.start.click(told(self._fuse), inputs, self.panel.outputs, **private)

    def _forecast(self, progress: gr.Progress = gr.Progress(), *picked: Any) -> str:  # noqa: B008
        def tell(sign: Progress) -> None:
            progress((sign.done, sign.total or 1), desc=sign.phase)

        lines = actions.forecast(self.app, self.picker.picks(picked), tell)
        return "<ul>" + "".join(f"<li>{fragments.text(line)}</li>" for line in lines) + "</ul>"

    def _fuse(
        self, method: str, name: str, density: float, balance: bool, whole: bool, text: float, *picked: Any
    ) -> tuple[Any, ...]:
        picks = self.picker.picks(picked)
        remarks = actions.one_word(self.app, picks)  # a file that cannot be read is told before anything is queued
        job = actions.fuse(self.app, picks, method, name, density, balance, whole, text)
        for remark in remarks:
            warn(remark)
        return self.panel.follow(job)

    @property
    def opened(self) -> list[Any]:
        """Components that :meth:`open` fills."""
        return [self.picker.names, *self.panel.outputs, *self.boxes.opened]

    def open(self) -> tuple[Any, ...]:
        """The adapters and the newest fusion as they are now."""
        return self.picker.fresh(), *self.panel.newest(), *self.boxes.open()
