"""The tab Library: every adapter with its image and description, export, import and removal."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.events import Dependency

from dreamtune.errors import ConfigError
from dreamtune.pipelines import library
from dreamtune.pipelines.export.run import export  # which loads torch
from dreamtune.pipelines.output import human

from .. import fragments
from ..calls import DEVICE, on_device
from ..context import App
from ..guard import ADAPTER_TYPES, upload
from ..messages import note, told
from ..theme import script

EXPORTS = {
    "lora": "plain LoRA, for diffusers",
    "peft": "PEFT, for diffusers",
    "kohya": "for ComfyUI, kohya, A1111",
    "embedding": "only the token's embedding",
}
"""Formats that are one file, which can be handed to a browser."""


class LibraryTab:
    """Components of the tab, and what they do."""

    def __init__(self, app: App) -> None:
        self.app = app
        with gr.Column(elem_classes="dt-panel"):
            gr.Markdown("### Adapters")
            self.cards = gr.HTML("", js_on_load=script("clicks.js"), elem_id="library")
        with gr.Row(equal_height=False):
            with gr.Column(elem_classes="dt-panel", min_width=320):
                gr.Markdown("### One adapter")
                self.chosen = gr.Dropdown(
                    [], label="Adapter", info="Or press Details on a card.", elem_id="library-chosen"
                )
                self.details = gr.HTML("")
                with gr.Row():
                    self.format = gr.Dropdown(
                        [(f"{name}: {words}", name) for name, words in EXPORTS.items()],
                        value="kohya",
                        label="Export as",
                    )
                with gr.Row():
                    self.export = gr.Button("Export")
                    self.remove = gr.Button("Remove", variant="stop")
                self.file = gr.File(label="Exported file", visible=False, interactive=False)
            with gr.Column(elem_classes="dt-panel", min_width=320):
                gr.Markdown("### Import an adapter")
                gr.Markdown(
                    "A .safetensors file of dreamtune, kohya, LyCORIS, ComfyUI, PEFT or diffusers. "
                    "It is checked first; formats that can contain code are refused."
                )
                self.drop = gr.File(
                    label="Drop an adapter file here",
                    file_types=ADAPTER_TYPES,
                    height=110,
                    elem_id="library-drop",
                    elem_classes="dt-drop",
                )
        private: dict[str, Any] = {"api_visibility": "private"}
        fresh = [self.cards, self.chosen]
        self.cards.click(told(self._clicked), None, [self.chosen, self.details, self.file], **private)
        self.chosen.input(told(self._details), self.chosen, [self.details, self.file], **private)
        self.export.click(told(self._export), [self.chosen, self.format], self.file, concurrency_limit=1, **private)
        self.remove.click(told(self._remove), self.chosen, [*fresh, self.details], **private)
        self.measured(self.drop.upload(told(self._import), self.drop, [self.drop, *fresh], **private))

    @property
    def opened(self) -> list[Any]:
        """Components that :meth:`open` fills."""
        return [self.cards, self.chosen]

    def measured(self, shown: Dependency) -> None:
        """After an event that shows the cards: fill in what takes time, while they are looked at."""
        options: dict[str, Any] = {"concurrency_id": DEVICE, "concurrency_limit": 1, "api_visibility": "private"}
        shown.then(told(on_device(self.measure)), None, self.cards, show_progress="hidden", **options)

    def open(self) -> tuple[Any, ...]:
        """The adapters as they are now."""
        found = library.entries(self.app.workspace)
        choices = [(entry.label, entry.name) for entry in found]
        if not found:
            return fragments.hint("No adapters yet: train one, or import one below."), gr.update(choices=[], value=None)
        cards = "".join(self._card(entry) for entry in found)
        return f'<div class="dt-cards">{cards}</div>', gr.update(choices=choices)

    def measure(self) -> str:
        """The cards once more, with the health of all adapters. Takes a moment for each that is new."""
        library.measure(self.app.workspace)
        return self.open()[0]

    def _card(self, entry: library.Entry) -> str:
        text, shown = fragments.text, library.thumbnail(self.app.workspace, entry)
        view = (
            fragments.picture(shown, f"Generated with {entry.label}", 320)
            if shown
            else '<span class="dt-blank"></span>'
        )
        if entry.error:
            facts = f'<p class="dt-bad">{text(entry.error)}</p>'
        else:
            rows = {
                "subject": entry.subject or "unknown",
                "method": f"{entry.method}, rank {entry.rank}",
                "base": entry.base or "unknown",
                "size": human(entry.size),
                "made by": entry.tool,
                "health": _health(entry),
            }
            facts = (
                "<dl>" + "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in rows.items()) + "</dl>"
            )
        verb = fragments.button("details", entry.name, "Details", entry.label)
        return f'<article class="dt-card">{view}<h3>{text(entry.label)}</h3>{facts}<div>{verb}</div></article>'

    def _clicked(self, event: gr.EventData) -> tuple[Any, Any, Any]:
        name = str(event._data.get("id", "")) if isinstance(event._data, dict) else ""
        return gr.update(value=name), *self._details(name)

    def _details(self, name: str) -> tuple[Any, Any]:
        found, hidden = library.entry(self.app.workspace, name), gr.update(visible=False, value=None)
        if found.error:
            return f'<p class="dt-bad">{fragments.text(found.error)}</p>', hidden
        health = library.health(self.app.workspace, name)
        strongest = [(fragments.text(path), f"{share:.1%}") for path, share in health.strongest]
        good = "good" if health.verdict == "healthy" else "note"
        words = f'<p class="dt-{good}">{fragments.text(health.verdict)}</p>'
        if found.warning:
            words = f'<p class="dt-bad">{fragments.text(found.warning)}</p>{words}'
        words += fragments.hint(f"{found.layers} layers; effective rank: {health.rank_used} (median)")
        if strongest:
            words += fragments.table(("Strongest layers", "share of the change"), strongest, "Strongest layers")
        return words, hidden

    def _export(self, name: str | None, form: str) -> Any:
        path = self.app.workspace.adapter(_chosen(name))
        if form not in EXPORTS:
            raise ConfigError(f"unknown format {form[:40]!r}: choose one from the list")
        label = library.entry(self.app.workspace, _chosen(name)).label
        place = self.app.workspace.free_place(self.app.workspace.exports, f"{label}-{form}", ".safetensors")
        result = export(path, place, form)
        note("; ".join(result.remarks) or f"{place.name} is ready to download")
        return gr.update(value=str(result.out), visible=True)

    def _remove(self, name: str | None) -> tuple[Any, ...]:
        place = library.remove(self.app.workspace, _chosen(name))
        note(f"moved to removed/{place.name} in the app's folder, nothing is lost")
        cards, chosen = self.open()
        return cards, gr.update(choices=chosen["choices"], value=None), ""

    def _import(self, file: str | None) -> tuple[Any, ...]:
        if file is None:
            return None, *self.open()
        path = upload(self.app, file)
        name = library.import_adapter(self.app.workspace, path, path.name)
        note(f"{name.rpartition('/')[2]} was added to the library")
        return None, *self.open()


def _health(entry: library.Entry) -> str:
    found = library.known_health(entry)
    if found is None:
        if library.is_hopeless(entry):
            return "cannot be measured: press Details to see why"
        return "press Details to measure it" if entry.size > library.QUICK_BYTES else "being measured"
    return f"{found.verdict}, ‖ΔW‖ {found.norm:.3g}" if found.measured else found.verdict


def _chosen(name: str | None) -> str:
    if not name:
        raise ConfigError("no adapter selected: press Details on a card")
    return name
