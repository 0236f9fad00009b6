"""Choosing adapters, each with a slider for its strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from .actions import Pick
from .context import App

MOST = 4
"""Adapters at once."""


def adapter_choices(app: App) -> list[tuple[str, str]]:
    """(what is shown, name) of every adapter."""
    return [
        (name.rpartition("/")[2] if name.startswith("adapters/") else name.removeprefix("runs/"), name)
        for name in app.workspace.all_adapters()
    ]


class Picker:
    """A list of adapters and their sliders, to be placed where it is made."""

    def __init__(self, app: App, label: str, info: str, strength: str = "strength", least: float = -1.0) -> None:
        self.app, self.strength = app, strength
        self.names = gr.Dropdown(
            adapter_choices(app), value=[], multiselect=True, max_choices=MOST, label=label, info=info
        )
        self.sliders = [
            gr.Slider(least, 2.0, 1.0, step=0.05, visible=False, label=strength, buttons=["reset"]) for _ in range(MOST)
        ]
        self.names.change(
            self._labels, self.names, self.sliders, queue=False, show_progress="hidden", api_visibility="private"
        )

    @property
    def inputs(self) -> list[Any]:
        """Components whose values :meth:`picks` takes."""
        return [self.names, *self.sliders]

    def picks(self, values: Sequence[Any]) -> list[Pick]:
        """What was chosen; takes as many of `values` as there are inputs."""
        names, strengths = values[0] or [], values[1 : MOST + 1]
        return [(name, float(strength)) for name, strength in zip(names, strengths, strict=False)]

    def fresh(self) -> Any:
        """The list as it is now."""
        return gr.update(choices=adapter_choices(self.app))

    def _labels(self, names: list[str] | None) -> list[Any]:
        names = names or []
        return [
            gr.update(
                visible=index < len(names),
                label=f"{names[index].rpartition('/')[2]}: {self.strength}" if index < len(names) else None,
            )
            for index in range(MOST)
        ]
