"""The caption editor."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreamtune.pipelines import datasets

from ..context import App
from ..messages import note, told


class CaptionEditor:
    """A table of pictures and captions for the chosen set, in an accordion of its own."""

    def __init__(self, app: App, dataset: gr.Dropdown) -> None:
        self.app = app
        with gr.Accordion("Captions", open=False) as self.accordion:
            gr.Markdown(
                "A caption describes what is *not* the subject: place, light, pose. Include the token and the class, "
                "as in *a sks cat on a sofa*. With several lines, one is picked at random each time. Images without a "
                "caption use the instance prompt."
            )
            self.table = gr.Dataframe(
                headers=["image", "caption"],
                datatype=["str", "str"],
                column_count=2,
                static_columns=[0],
                interactive=True,
                wrap=True,
                label="Captions",
                type="array",
                max_height=320,
            )
            self.save = gr.Button("Save captions", size="sm")
        private: dict[str, Any] = {"api_visibility": "private"}
        self.accordion.expand(told(self._read), dataset, self.table, **private)
        dataset.change(told(self._read), dataset, self.table, queue=False, show_progress="hidden", **private)
        self.save.click(told(self._write), [dataset, self.table], None, **private)

    def _read(self, name: str) -> Any:
        captions = datasets.read_captions(self.app.workspace.dataset(name))
        return [[file, caption] for file, caption in captions.items()]

    def _write(self, name: str, rows: list[list[Any]]) -> None:
        captions = {str(row[0]): str(row[1] or "") for row in rows if row and row[0]}
        note(f"{datasets.write_captions(self.app.workspace, name, captions)} images have a caption")
