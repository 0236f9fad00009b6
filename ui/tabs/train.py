"""The tab Train: images, method, plan, start, and the training's progress."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dreamtune.names import METHODS
from dreamtune.pipelines import datasets
from dreamtune.pipelines.output import human
from dreamtune.pipelines.progress import clock
from dreamtune.pipelines.train.run_view import read_run
from dreamtune.pipelines.workspace import SAMPLES

from .. import actions, fragments
from ..calls import DEVICE, on_device
from ..context import App
from ..guard import PICTURE_TYPES, uploaded
from ..messages import note, told
from ..panel import JobPanel
from .captions import CaptionEditor

FIRST = "sample-cat"
"""The images that are selected at first."""


class TrainTab:
    """Components of the tab, and what they do."""

    def __init__(self, app: App) -> None:
        self.app = app
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320, elem_classes="dt-panel"):
                self._pictures()
                self._method()
                with gr.Row():
                    self.plan = gr.Button("Estimate", elem_id="train-plan")
                    self.start = gr.Button("Start training", variant="primary", elem_id="train-start")
                self.planned = gr.HTML("")
            with gr.Column(scale=5, min_width=320, elem_classes="dt-panel"):
                gr.Markdown("### Training")
                self.panel = JobPanel(
                    app, ("train",), "Nothing has been trained yet. The sample cat is ready: press Start training."
                )
                self.draw = gr.Button("Generate with it", variant="primary", visible=False, elem_id="train-draw")
        self._events()

    def _pictures(self) -> None:
        gr.Markdown("### Images of one subject")
        self.dataset = gr.Dropdown(
            list(self.app.workspace.all_datasets()),
            value=FIRST,
            label="Images",
            info="A sample, or images dropped below.",
        )
        self.drop = gr.File(
            label="Drop 3 to 30 images here",
            file_count="multiple",
            file_types=PICTURE_TYPES,
            height=96,
            elem_id="train-drop",
            elem_classes="dt-drop",
        )
        self.tiles = gr.HTML("", elem_id="train-pictures")
        self.captions = CaptionEditor(self.app, self.dataset)

    def _method(self) -> None:
        with gr.Row():
            self.class_word = gr.Textbox(
                "cat",
                label="Class",
                info="What the subject is, in a word the base knows.",
                min_width=150,
                elem_id="train-class",
            )
            self.token = gr.Textbox(
                "sks",
                label="Token",
                info="A rare word for the subject, a different one for each.",
                min_width=150,
                elem_id="train-word",
            )
        with gr.Row():
            self.base = gr.Dropdown(
                list(self.app.workspace.all_bases()),
                value="pocket",
                label="Base model",
                info="pocket, or a hub id.",
                allow_custom_value=True,
                min_width=150,
            )
            self.method = gr.Dropdown(
                list(METHODS),
                value="lora",
                label="Method",
                info=METHODS["lora"],
                min_width=150,
            )
        with gr.Accordion("More settings", open=False):
            with gr.Row():
                self.steps = gr.Number(
                    0, label="Steps", precision=0, minimum=0, info="0: preset", min_width=110, elem_id="train-steps"
                )
                self.rank = gr.Number(0, label="Rank", precision=0, minimum=0, info="0: preset", min_width=110)
                self.lr = gr.Number(0, label="Learning rate", minimum=0, info="0: preset", min_width=110)
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=110)
            with gr.Row():
                self.prior = gr.Checkbox(
                    True,
                    label="Prior preservation",
                    info="Also train on class images.",
                    min_width=150,
                    elem_id="train-prior",
                )
                self.text = gr.Checkbox(
                    False,
                    label="Train the text encoder",
                    info="Closer to the subject, but overfits sooner.",
                    min_width=150,
                )
                self.flip = gr.Checkbox(False, label="Mirror images", info="Not for faces or text.", min_width=150)
            with gr.Row():
                self.sample = gr.Number(
                    50,
                    label="Sample every",
                    info="Steps; 0: off.",
                    precision=0,
                    minimum=0,
                    min_width=150,
                    elem_id="train-sample",
                )
                self.score = gr.Number(
                    0,
                    label="Evaluate every",
                    info="Steps; plots the scores. 0: off.",
                    precision=0,
                    minimum=0,
                    min_width=150,
                )
                self.name = gr.Textbox(
                    "", label="Name", info="Of the run.", placeholder="images and method", min_width=150
                )
            self.more = gr.Textbox(
                "",
                label="Any other setting",
                info="One per line, as in a recipe.",
                lines=2,
                placeholder="lr_schedule: cosine",
                elem_id="train-more",
            )

    @property
    def _form(self) -> list[Any]:
        numbers = [self.steps, self.rank, self.lr, self.seed, self.prior, self.text, self.flip, self.sample, self.score]
        return [self.dataset, self.class_word, self.token, self.base, self.method, *numbers, self.more]

    def _events(self) -> None:
        private: dict[str, Any] = {"api_visibility": "private"}
        quiet: dict[str, Any] = {**private, "queue": False, "show_progress": "hidden"}
        looked = [self.tiles]
        self.method.change(lambda name: gr.update(info=METHODS[name]), self.method, self.method, **quiet)
        self.dataset.input(told(self._called), self.dataset, [self.class_word, self.token], **quiet)
        self.dataset.change(told(self._tiles), self.dataset, self.tiles, **quiet).then(
            told(on_device(self._check)),
            [self.dataset, self.base, self.class_word, self.token],
            looked,
            concurrency_id=DEVICE,
            concurrency_limit=1,
            show_progress="minimal",
            **private,
        )
        brought = [self.drop, self.dataset, self.class_word, self.token]
        self.drop.upload(told(self._bring), self.drop, brought, **private)
        self.plan.click(
            told(on_device(self._plan)), self._form, self.planned, concurrency_id=DEVICE, concurrency_limit=1, **private
        )
        self.start.click(told(self._start), [*self._form, self.name], [*self.panel.outputs, self.planned], **private)
        self.panel.then(self._offer, [self.panel.job], [self.draw])

    def _tiles(self, name: str) -> str:
        """The pictures as they are, before they have been looked at."""
        files = datasets.picture_files(self.app.workspace.dataset(name))
        return fragments.tiles((path, path.name, ()) for path in files)

    def _check(self, name: str, base: str, class_word: str, token: str) -> str:
        found = actions.check(self.app, name, base, class_word, token)
        remarks: dict[str, list[tuple[str, str]]] = {}
        for remark in found.remarks:
            kind = "bad" if remark.skipped else "note"
            remarks.setdefault(remark.file, []).append((kind, f"{remark.problem}: {remark.remedy}"))
        folder = self.app.workspace.dataset(name)
        rest = [file for file in remarks if not (folder / file).is_file()]
        shown = fragments.tiles(
            (path, path.name, remarks.get(path.name, [("good", "usable")])) for path in datasets.picture_files(folder)
        )
        foreign = [
            file
            for file in remarks
            if (folder / file).is_file() and folder / file not in datasets.picture_files(folder)
        ]
        lines = "".join(
            f'<p class="dt-{fragments.text(kind)}">{fragments.text(file)}: {fragments.text(line)}</p>'
            for file in (*rest, *foreign)
            for kind, line in remarks[file]
        )
        shapes = ", ".join(f"{count} at {shape}" for shape, count in found.shapes.items())
        summary = (
            found.error
            or f"{len(found.photos)} of {len(datasets.picture_files(folder))} images are usable: {shapes} pixels"
        )
        kind = "bad" if found.error else "good"
        return f'<p class="dt-{kind}" data-checked="yes">{fragments.text(summary)}</p>{shown}{lines}'

    def _called(self, name: str) -> tuple[Any, str]:
        """Class and word of the subject of these pictures."""
        return SAMPLES[name][1] if name in SAMPLES else gr.skip(), actions.free_word(self.app)

    def _bring(self, files: list[str] | None) -> tuple[Any, Any, Any, str]:
        brought = uploaded(self.app, files)
        name = datasets.bring(self.app.workspace, brought)
        note(f"{len(brought)} files were added to {name}; now enter what the subject is")
        sets = gr.update(choices=list(self.app.workspace.all_datasets()), value=name)
        return None, sets, "", actions.free_word(self.app)

    def _values(self, form: tuple[Any, ...]) -> tuple[str, dict[str, Any], str]:
        dataset, class_word, token, base, method, steps, rank, lr, seed, prior, text, flip, sample, score, more = form
        values = {
            "class_word": class_word,
            "token": token,
            "base": base,
            "method": method,
            "steps": steps,
            "rank": rank,
        }
        values |= {"steps": steps or None, "rank": rank or None, "lr": lr or None}  # an empty number comes as 0
        values |= {"seed": seed, "prior": prior, "text_encoder": text, "flip": flip}
        return dataset, values | {"sample_every": sample or 0, "score_every": score or 0}, more

    def _plan(self, *form: Any) -> str:
        dataset, values, more = self._values(form)
        found = actions.plan(self.app, dataset, values, more, lambda progress: None)
        config = found.config
        facts = [
            ("Images", f"{found.pictures}, each seen {found.epochs:.0f} times, {found.captions} different captions"),
            ("Steps", f"{config.steps}, {found.batch} images each, about {clock(found.seconds)} on {found.device}"),
            (
                "Trained",
                f"{found.parameters:,} parameters in {found.layers} layers, rank {config.rank}, lr {config.lr:g}",
            ),
            ("Memory, disk", f"{human(found.memory)}, {human(found.disk)} of {human(found.disk_free)} free"),
        ]
        return fragments.table(("Estimate", ""), [(fragments.text(a), fragments.text(b)) for a, b in facts], "Estimate")

    def _start(self, *values: Any) -> tuple[Any, ...]:
        dataset, settings, more = self._values(values[:-1])
        job = actions.train(self.app, dataset, settings, more, values[-1])
        return *self.panel.follow(job), ""

    def _offer(self, id: str) -> Any:
        return gr.update(visible=self.trained(id) is not None)

    def trained(self, id: str) -> tuple[str, str] | None:
        """Adapter and example prompt of a followed training that is done."""
        job = self.app.jobs.get(id) if id else None
        if job is None or job.state != "done" or job.kind != "train":
            return None
        run = read_run(job.out)
        return f"runs/{job.out.name}", f"a {run.token} {run.class_word} on the beach"

    def open(self) -> tuple[Any, ...]:
        """Values of the tab when the page opens, for :attr:`opened`."""
        sets = list(self.app.workspace.all_datasets())
        return gr.update(choices=sets), actions.free_word(self.app), self._tiles(FIRST), *self.panel.newest()

    @property
    def opened(self) -> list[Any]:
        """Components that :meth:`open` fills."""
        return [self.dataset, self.token, self.tiles, *self.panel.outputs]
