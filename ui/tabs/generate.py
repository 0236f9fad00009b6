"""The tab Generate: adapters with sliders, a prompt, and images that record how they were made."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gradio as gr

from dreamtune.names import AUTO_SAMPLER, GRID, SAMPLERS
from dreamtune.pipelines.progress import Progress, stoppable

from .. import actions
from ..calls import DEVICE, on_device
from ..context import App
from ..guard import upload
from ..messages import note, told, warn
from ..picker import Picker

_SESSIONS = 256
"""Pages whose Stop button is remembered."""


class GenerateTab:
    """Components of the tab, and what they do."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._stops: OrderedDict[str, threading.Event] = OrderedDict()
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_classes="dt-panel"):
                self.picker = Picker(app, "Adapters", "Up to four; their effects add up. None: the base alone.")
                self.prompt = gr.Textbox(
                    "a sks cat on the beach", label="Prompt", info="Include the adapter's token.", lines=2
                )
                with gr.Row():
                    self.n = gr.Slider(1, 16, 4, step=1, label="Images", min_width=150, elem_id="generate-n")
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=110)
                self.beside = gr.Checkbox(
                    True, label="Compare with the base", info="Also generate with the base alone, from the same noise."
                )
                self.layout = gr.Checkbox(
                    False,
                    label="Automatic layout",
                    info="For two or more subjects: a draft by the base decides where each adapter acts.",
                    elem_id="generate-layout",
                )
                with gr.Accordion("More settings", open=False):
                    self.negative = gr.Textbox("", label="Negative prompt", info="What to avoid.")
                    with gr.Row():
                        self.steps = gr.Number(
                            0,
                            label="Steps",
                            precision=0,
                            minimum=0,
                            maximum=1000,
                            info="0: preset",
                            min_width=110,
                        )
                        self.guidance = gr.Number(0, label="Guidance", minimum=0, info="0: preset", min_width=110)
                        self.size = gr.Number(
                            0,
                            label="Size",
                            precision=0,
                            minimum=0,
                            maximum=4096,
                            info="0: preset",
                            min_width=110,
                        )
                    with gr.Row():
                        samplers = [AUTO_SAMPLER, *SAMPLERS]
                        self.scheduler = gr.Dropdown(samplers, value=AUTO_SAMPLER, label="Sampler", min_width=150)
                        self.denoise = gr.Slider(
                            0.05,
                            1.0,
                            0.6,
                            step=0.05,
                            label="Denoise",
                            info="How much of the start image to redraw.",
                            min_width=150,
                        )
                    self.text = gr.Slider(
                        0.0,
                        2.0,
                        1.0,
                        step=0.05,
                        label="Text encoder strength",
                        info="Extra factor on the adapters' strength in text encoders.",
                    )
                    self.init = gr.Image(
                        label="Start image", type="filepath", sources=["upload"], height=140, buttons=[]
                    )
                    self.base = gr.Dropdown(
                        ["auto", *app.workspace.all_bases()],
                        value="auto",
                        label="Base model",
                        info="auto: the adapters' own base.",
                        allow_custom_value=True,
                    )
                with gr.Accordion("Grid", open=False):
                    gr.Markdown("Compare values on one sheet, all from the same noise.", elem_classes="dt-quiet")
                    self.axes = [self._axis("Columns", "strength", "0, 0.5, 1"), self._axis("Rows", "", "")]
                with gr.Row():
                    self.stop = gr.Button("Stop", min_width=80, scale=1)
                    self.draw = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120, scale=3)
            with gr.Column(scale=6, min_width=320, elem_classes="dt-panel"):
                gr.Markdown("### With the adapters")
                self.pictures = _gallery("With the adapters", 2, elem_id="generated")
                with gr.Column(visible=False) as self.below:
                    gr.Markdown("### The base alone, from the same noise")
                    self.plain = _gallery("The base alone", 4, elem_id="plain")
                gr.Markdown(
                    "Each PNG contains its prompt, seed, settings and adapters, readable by other tools.",
                    elem_classes="dt-quiet",
                )
        private: dict[str, Any] = {"api_visibility": "private"}
        grid = [part for axis in self.axes for part in axis]
        numbers = [self.steps, self.guidance, self.size, self.base, self.scheduler, self.init, self.denoise]
        form = [self.prompt, self.n, self.seed, self.beside, self.negative, *numbers, *grid, self.text, self.layout]
        self.draw.click(
            told(on_device(self._draw)),
            [*form, *self.picker.inputs],
            [self.pictures, self.plain, self.below],
            concurrency_id=DEVICE,
            concurrency_limit=1,
            **private,
        )
        self.stop.click(told(self._stop), None, None, queue=False, **private)

    def _axis(self, label: str, name: str, values: str) -> tuple[gr.Dropdown, gr.Textbox]:
        with gr.Row():
            axis = gr.Dropdown([("none", ""), *((it, it) for it in GRID)], value="", label=label, min_width=120)
            chosen = gr.Textbox(values, label=f"{label}: values", placeholder="0, 0.5, 1", min_width=120)
        return axis, chosen

    def _draw(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *form: Any) -> tuple[Any, Any, Any]:  # noqa: B008
        prompt, n, seed, beside, negative, steps, guidance, size, base, scheduler, init, denoise = form[:12]
        grid = tuple(f"{axis}={values}" for axis, values in (form[12:14], form[14:16]) if axis)
        layout, picks = bool(form[17]), self.picker.picks(form[18:])
        stop = self._stops[request.session_hash or ""] = threading.Event()
        if len(self._stops) > _SESSIONS:
            self._stops.popitem(last=False)

        def tell(sign: Progress) -> None:
            if sign.total:
                progress((sign.done, sign.total), desc=sign.phase, unit="images")

        on_progress = stoppable(tell, stop, "stopped; finished images are kept")
        values = {"prompts": (prompt,), "seed": int(seed or 0), "negative_prompt": negative or "", "grid": grid}
        values |= {"steps": steps or None, "guidance": guidance or None, "size": size or None, "base": base}
        values |= {"scheduler": scheduler, "text_encoders": form[16]} | (
            {} if any(it.startswith("seed=") for it in grid) else {"n": int(n)}
        )
        if init:
            values |= {"init": upload(self.app, init), "denoise": denoise}
        progress(0, desc="loading the base")
        placed = values | {"layout": "auto"} if layout else values
        result = actions.draw(self.app, picks, placed, on_progress)
        for remark in result.remarks:
            warn(remark)
        drawn = _captioned(result.files, result.seeds)
        if grid and result.sheet:
            return [(str(result.sheet), "grid"), *drawn], None, gr.update(visible=False)
        if not (beside and picks):
            return drawn, None, gr.update(visible=False)
        nothing = [(name, 0.0) for name, _ in picks]  # at strength 0 they are exactly the base, which they also name
        plain = actions.draw(self.app, nothing, values, on_progress)
        return drawn, _captioned(plain.files, plain.seeds), gr.update(visible=True)

    def _stop(self, request: gr.Request) -> None:
        event = self._stops.get(request.session_hash or "")
        if event is None or event.is_set():
            return
        event.set()
        note("stops after the current image")

    def fresh(self) -> Any:
        """The list of adapters as it is now."""
        return self.picker.fresh()


def _gallery(label: str, columns: int, elem_id: str | None = None) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=columns,
        object_fit="contain",
        height="auto",
        buttons=["download", "fullscreen"],
        elem_id=elem_id,
    )


def _captioned(files: tuple[Path, ...], seeds: tuple[int, ...]) -> list[tuple[str, str]]:
    return [(str(path), f"seed {seed}") for path, seed in zip(files, seeds, strict=True)]
