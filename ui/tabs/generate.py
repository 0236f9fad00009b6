"""The tab Generate: adapters with sliders, a prompt, and pictures that say how they were made."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gradio as gr

from dreamtune.pipelines.progress import Progress

from .. import actions
from ..context import DEVICE, App
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
                self.picker = Picker(app, "Adapters", "Up to four; their changes add up. None draws the base alone.")
                self.prompt = gr.Textbox(
                    "a sks cat on the beach", label="Prompt", info="With the adapter's word in it.", lines=2
                )
                with gr.Row():
                    self.n = gr.Slider(1, 16, 4, step=1, label="Pictures", min_width=150)
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=110)
                self.beside = gr.Checkbox(
                    True, label="Base beside it", info="Also draw the base alone, from the same noise."
                )
                with gr.Accordion("More settings", open=False):
                    self.negative = gr.Textbox("", label="Negative prompt", info="What to lead away from.")
                    with gr.Row():
                        self.steps = gr.Number(
                            None,
                            label="Steps",
                            precision=0,
                            minimum=1,
                            maximum=1000,
                            placeholder="preset",
                            min_width=110,
                        )
                        self.guidance = gr.Number(
                            None, label="Guidance", minimum=0, placeholder="preset", min_width=110
                        )
                        self.size = gr.Number(
                            None,
                            label="Size",
                            precision=0,
                            minimum=8,
                            maximum=4096,
                            placeholder="preset",
                            min_width=110,
                        )
                    self.base = gr.Dropdown(
                        ["auto", *app.workspace.all_bases()],
                        value="auto",
                        label="Base model",
                        info="auto is the adapters' own.",
                        allow_custom_value=True,
                    )
                with gr.Row():
                    self.stop = gr.Button("Stop", min_width=80, scale=1)
                    self.draw = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120, scale=3)
            with gr.Column(scale=6, min_width=320, elem_classes="dt-panel"):
                self.pictures = gr.Gallery(
                    label="With the adapters",
                    columns=2,
                    object_fit="contain",
                    height=420,
                    buttons=["download", "fullscreen"],
                    elem_id="generated",
                )
                self.plain = gr.Gallery(
                    label="The base alone, same noise",
                    columns=4,
                    object_fit="contain",
                    height=240,
                    visible=False,
                    buttons=["download", "fullscreen"],
                )
                gr.Markdown(
                    "Each PNG holds its prompt, seed, settings and adapters, for other tools to read.",
                    elem_classes="dt-quiet",
                )
        private: dict[str, Any] = {"api_visibility": "private"}
        form = [
            self.prompt,
            self.n,
            self.seed,
            self.beside,
            self.negative,
            self.steps,
            self.guidance,
            self.size,
            self.base,
        ]
        self.draw.click(
            told(self._draw),
            [*form, *self.picker.inputs],
            [self.pictures, self.plain],
            concurrency_id=DEVICE,
            concurrency_limit=1,
            **private,
        )
        self.stop.click(told(self._stop), None, None, queue=False, **private)

    def _draw(
        self,
        prompt: str,
        n: int,
        seed: int,
        beside: bool,
        negative: str,
        steps: int | None,
        guidance: float | None,
        size: int | None,
        base: str,
        *picked: Any,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, Any]:
        picks = self.picker.picks(picked)
        stop = self._stops[request.session_hash or ""] = threading.Event()
        if len(self._stops) > _SESSIONS:
            self._stops.popitem(last=False)

        def tell(sign: Progress) -> None:
            if sign.total:
                progress((sign.done, sign.total), desc=sign.phase, unit="pictures")

        values = {"prompts": (prompt,), "n": int(n), "seed": int(seed or 0), "negative_prompt": negative or ""}
        values |= {"steps": steps, "guidance": guidance, "size": size, "base": base}
        progress(0, desc="loading the base")
        result = actions.draw(self.app, picks, values, actions.stoppable(tell, stop))
        for remark in result.remarks:
            warn(remark)
        with_adapters = _captioned(result.files, result.seeds)
        if not (beside and picks):
            return with_adapters, gr.update(visible=False, value=None)
        nothing = [(name, 0.0) for name, _ in picks]  # at strength 0 they are exactly the base, which they also name
        plain = actions.draw(self.app, nothing, values, actions.stoppable(tell, stop))
        return with_adapters, gr.update(visible=True, value=_captioned(plain.files, plain.seeds))

    def _stop(self, request: gr.Request) -> None:
        event = self._stops.get(request.session_hash or "")
        if event is None or event.is_set():
            return
        event.set()
        note("stops after the picture it is at")

    def fresh(self) -> Any:
        """The list of adapters as it is now."""
        return self.picker.fresh()


def _captioned(files: tuple[Path, ...], seeds: tuple[int, ...]) -> list[tuple[str, str]]:
    return [(str(path), f"seed {seed}") for path, seed in zip(files, seeds, strict=True)]
