"""The page with its tabs, and what happens when it is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import api
from .calls import Page
from .context import KEEP, App
from .picker import adapter_choices
from .sessions import describe_once
from .tabs import AnalyzeTab, FuseTab, GenerateTab, JobsTab, LibraryTab, TrainTab

_HEAD = """<div class="dt-head"><h1>dreamtune</h1><p>Teach Stable Diffusion your subject from a few images.</p></div>"""


def build(app: App) -> Page:
    """All components and events of one served app."""
    with Page(title="dreamtune", analytics_enabled=False, delete_cache=KEEP) as blocks:
        gr.HTML(_HEAD)
        with gr.Tabs(selected="train") as tabs:
            with gr.Tab("Train", id="train") as train_tab:
                train = TrainTab(app)
            with gr.Tab("Generate", id="generate") as generate_tab:
                generate = GenerateTab(app)
            with gr.Tab("Fuse", id="fuse") as fuse_tab:
                fuse = FuseTab(app)
            with gr.Tab("Analyze", id="analyze") as analyze_tab:
                analyze = AnalyzeTab(app)
            with gr.Tab("Jobs", id="jobs") as jobs_tab:
                jobs = JobsTab(app)
            with gr.Tab("Library", id="library") as library_tab:
                library = LibraryTab(app)
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        blocks.load(train.open, None, train.opened, **quiet)
        train_tab.select(train.panel.newest, None, train.panel.outputs, **quiet)
        for place, tab in ((fuse_tab, fuse), (analyze_tab, analyze), (jobs_tab, jobs)):
            place.select(tab.open, None, tab.opened, **quiet)
        library.measured(library_tab.select(library.open, None, library.opened, **quiet))
        generate_tab.select(generate.fresh, None, generate.picker.names, **quiet)

        def use(id: str) -> tuple[Any, ...]:
            found = train.trained(id)
            if found is None:
                return (gr.skip(),) * 3
            name, prompt = found
            return gr.Tabs(selected="generate"), gr.update(choices=adapter_choices(app), value=[name]), prompt

        train.draw.click(use, train.panel.job, [tabs, generate.picker.names, generate.prompt], **quiet)
        api.add(app)
    blocks.name_public_alone()
    describe_once(blocks)
    return blocks
