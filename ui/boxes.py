"""Several subjects in one image: a canvas of boxes, each with its own adapter and prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreamtune.errors import ConfigError

from . import actions
from .calls import DEVICE, on_device
from .context import App
from .messages import told
from .picker import adapter_choices
from .theme import script

MOST = 4
"""Boxes at once."""
_FIRST = [[0.04, 0.25, 0.48, 0.96], [0.52, 0.25, 0.96, 0.96]]


class Boxes:
    """The canvas, its rows, and the pictures, to be placed where it is made."""

    def __init__(self, app: App) -> None:
        self.app = app
        gr.Markdown(
            "### Several subjects in one image\nDraw boxes; drag a box to move it, its corner to resize it. Keyboard: "
            "Tab selects a box, arrows move it, Shift+arrows resize it, Delete removes it."
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                self.canvas = gr.HTML(
                    json.dumps(_FIRST),
                    html_template='<div class="dt-canvas" role="group" aria-label="Boxes"></div>',
                    js_on_load=script("boxes.js"),
                    elem_id="boxes",
                    most=MOST,
                )
            with gr.Column(scale=6, min_width=320):
                self.whole = gr.Textbox("a sks cat and a robot in a forest", label="Prompt for the whole image")
                self.rows = [self._row(number) for number in range(MOST)]
                with gr.Row():
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=110)
                    self.others = gr.Checkbox(
                        True, label="Compare", info="Also generate each alone, and all added up.", min_width=150
                    )
                self.draw = gr.Button("Generate in boxes", variant="primary", elem_id="boxes-draw")
        self.pictures = gr.Gallery(
            label="Alone, added up, in boxes",
            columns=4,
            object_fit="contain",
            height=300,
            visible=False,
            buttons=["download", "fullscreen"],
        )
        private: dict[str, Any] = {"api_visibility": "private"}
        self.canvas.change(
            self._show, self.canvas, [row for row, _, _ in self.rows], queue=False, show_progress="hidden", **private
        )
        inputs = [
            self.canvas,
            self.whole,
            self.seed,
            self.others,
            *(part for _, adapter, prompt in self.rows for part in (adapter, prompt)),
        ]
        self.draw.click(
            told(on_device(self._draw)), inputs, self.pictures, concurrency_id=DEVICE, concurrency_limit=1, **private
        )

    def _row(self, number: int) -> tuple[gr.Row, gr.Dropdown, gr.Textbox]:
        with gr.Row(visible=number < len(_FIRST)) as row:
            adapter = gr.Dropdown(
                adapter_choices(self.app), value=None, label=f"Box {number + 1}: adapter", min_width=150
            )
            prompt = gr.Textbox("", label=f"Box {number + 1}: prompt", placeholder="a sks cat", min_width=150)
        return row, adapter, prompt

    def _show(self, value: str) -> list[Any]:
        try:
            count = len(read_boxes(value))
        except ConfigError:
            count = 0
        return [gr.update(visible=number < count) for number in range(MOST)]

    def _draw(self, progress: gr.Progress = gr.Progress(), *form: Any) -> Any:  # noqa: B008
        value, whole, seed, others, *rows = form
        boxes = read_boxes(value)
        parts = [(box, rows[2 * number], rows[2 * number + 1]) for number, box in enumerate(boxes)]
        if not parts:
            raise ConfigError("there is no box: draw one on the canvas")
        regions = []
        for number, (box, adapter, prompt) in enumerate(parts, 1):
            if not adapter or not (prompt or "").strip():
                raise ConfigError(
                    f"box {number} has no {'prompt' if adapter else 'adapter'}: add one, or remove the box"
                )
            place = ",".join(f"{share:.4f}" for share in box)
            regions.append(f"{self.app.workspace.adapter(adapter)}@{place}={prompt.strip()}")

        def tell(sign: Any) -> None:
            if sign.total:
                progress((sign.done, sign.total), desc=sign.phase)

        common = {"prompts": (whole,), "n": 1, "seed": int(seed or 0)}
        names = list(dict.fromkeys(adapter for _, adapter, _ in parts))
        shown: list[tuple[str, str]] = []
        if others:
            for name in names:
                own = next(prompt for _, adapter, prompt in parts if adapter == name)
                alone = actions.draw(self.app, [(name, 1.0)], common | {"prompts": (own,)}, tell)
                shown.append((str(alone.files[0]), f"{name.rpartition('/')[2]} alone"))
            added = actions.draw(self.app, [(name, 1.0) for name in names], common, tell)
            shown.append((str(added.files[0]), "added up"))
        routed = actions.draw(self.app, [], common | {"regions": tuple(regions)}, tell, names)
        shown.append((str(routed.files[0]), "in boxes"))
        return gr.update(value=shown, visible=True)

    @property
    def opened(self) -> list[Any]:
        """Components that :meth:`open` fills."""
        return [adapter for _, adapter, _ in self.rows]

    def open(self) -> tuple[Any, ...]:
        """The adapters as they are now."""
        return tuple(gr.update(choices=adapter_choices(self.app)) for _ in self.rows)


def read_boxes(value: str) -> list[Sequence[float]]:
    """The canvas's boxes in shares of the picture. Raises ConfigError for what no canvas sends."""
    try:
        boxes = json.loads(value) if isinstance(value, str) else value
        found = [[min(1.0, max(0.0, float(share))) for share in box] for box in boxes]
    except (ValueError, TypeError):
        raise ConfigError("the boxes cannot be read: draw them again") from None
    if len(found) > MOST or any(len(box) != 4 for box in found):
        raise ConfigError(f"at most {MOST} boxes of four numbers: draw them again")
    return [*found]
