"""The endpoints for programs: named, typed, and called with names instead of paths (see examples/api_client.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from dreamtune.errors import ConfigError
from dreamtune.pipelines import datasets, library

from . import actions
from .calls import DEVICE, on_device, typed
from .context import App
from .guard import uploaded
from .messages import told


def add(app: App) -> None:
    """Add the endpoints to the blocks that are being built."""

    def upload(files: list[dict[str, Any]], name: str = "") -> str:
        """Make a data set of uploaded images; returns its name, for /train."""
        paths = [str(file.get("path", "")) for file in files]
        return datasets.bring(app.workspace, uploaded(app, paths), name or None)

    def check(dataset: str, class_word: str = "subject", token: str = "sks", base: str = "pocket") -> dict[str, Any]:
        """Check a set of images as training would."""
        found = actions.check(app, dataset, base, class_word, token).to_dict()
        return found | {"folder": dataset}

    def train(dataset: str, class_word: str, settings: dict[str, Any] | None = None, name: str = "") -> dict[str, Any]:
        """Queue a training; settings as in a recipe."""
        values = {"class_word": class_word, **(settings or {})}
        for key in values.keys() & {"images", "start_from", "dino", "clip", "trackers"}:
            raise ConfigError(f"{key} cannot be set by a client")
        return public(app, actions.train(app, dataset, values, "", name))

    def generate(
        prompt: str,
        adapters: dict[str, float] | None = None,
        n: int = 1,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Generate images.

        adapters: name -> strength; settings: steps, guidance, size, negative_prompt, prompt_weights, base, or
        text_encoders, an extra factor on the adapters' strength there.
        """
        more = settings or {}
        known = ("steps", "guidance", "size", "negative_prompt", "prompt_weights", "text_encoders", "base")
        for key in more.keys() - set(known):
            raise ConfigError(f"{key[:40]!r} is not a setting of /generate: use {', '.join(known[:-1])} or {known[-1]}")
        if not isinstance(more.get("text_encoders", 1.0), int | float):
            raise ConfigError("text_encoders must be a number")
        picks = [(str(key), float(value)) for key, value in (adapters or {}).items()]
        values = {"prompts": (prompt,), "n": n, "seed": seed, **more}
        result = actions.draw(app, picks, values, lambda sign: None)
        return result.to_dict() | {"files": [FileData(path=str(path)).model_dump() for path in result.files]}

    def fuse(
        adapters: dict[str, float], method: str = "sum", name: str = "", density: float | None = None
    ) -> dict[str, Any]:
        """Queue a fusion. adapters: name -> weight."""
        picks = [(str(key), float(value)) for key, value in adapters.items()]
        return public(app, actions.fuse(app, picks, method, name, density, False))

    def analyze(adapters: list[str], name: str = "") -> dict[str, Any]:
        """Queue an analysis."""
        return public(app, actions.analyze(app, adapters, name, {}))

    def job(id: str) -> dict[str, Any]:
        """A job's current state."""
        return public(app, app.jobs.get(id))

    def jobs() -> list[dict[str, Any]]:
        """All jobs: running, queued, ended."""
        return [public(app, one) for one in app.jobs.list()]

    def stop(id: str) -> dict[str, Any]:
        """Ask a job to stop; a training writes a checkpoint."""
        return public(app, app.jobs.stop(id))

    def resume(id: str) -> dict[str, Any]:
        """Queue an interrupted job again."""
        return public(app, actions.resume(app, id))

    def cancel(id: str) -> dict[str, Any]:
        """Remove a job from the queue."""
        return public(app, app.jobs.cancel(id))

    def adapters() -> list[dict[str, Any]]:
        """All adapters in the library."""
        return [
            {key: value for key, value in vars(entry).items() if key != "path"}
            for entry in library.entries(app.workspace)
        ]

    quick: list[Callable[..., Any]] = [upload, train, fuse, analyze, job, jobs, stop, resume, cancel, adapters]
    for endpoint in quick:
        gr.api(told(typed(endpoint)), api_name=endpoint.__name__, concurrency_limit=8)
    slow: list[Callable[..., Any]] = [check, generate]
    for endpoint in slow:
        gr.api(told(typed(on_device(endpoint))), api_name=endpoint.__name__, concurrency_id=DEVICE, concurrency_limit=1)


def public(app: App, job: Any) -> dict[str, Any]:
    """A job as plain values, its place by name."""
    home = app.workspace.home
    out = job.out.relative_to(home).as_posix() if job.out.is_relative_to(home) else job.out.name
    return job.to_dict() | {"out": out.removesuffix(".safetensors")}
