"""Turns names and values sent by a page or client into pipeline calls; only here does the app start work."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreamtune.errors import ConfigError
from dreamtune.pipelines import library
from dreamtune.pipelines.allowed_base import AUTO, allowed_base
from dreamtune.pipelines.jobs.job import UNFINISHED, Job
from dreamtune.pipelines.progress import OnProgress
from dreamtune.pipelines.workspace import plain_name

from .context import App

if TYPE_CHECKING:
    from dreamtune.pipelines.generate.run import GenerateResult
    from dreamtune.pipelines.train.check import CheckResult
    from dreamtune.pipelines.train.plan import PlanResult

MOST_QUEUED = 50
"""Jobs that may be queued; further ones are refused."""
MOST_PICTURES = 64
"""Of one call."""
Pick = tuple[str, float]
"""Name of an adapter, and its strength."""
_SET_ELSEWHERE = {"images", "base", "start_from", "dino", "clip", "trackers", "device"}
"""Settings that name files, other machines, or what the page asks for by itself."""


def submit(app: App, kind: Literal["train", "fuse", "analyze", "evaluate"], config: Any, out: Path, title: str) -> Job:
    """Queue a job and make sure that a worker is running. Raises ConfigError when too many jobs are queued."""
    if sum(job.state == "queued" for job in app.jobs.list()) >= MOST_QUEUED:
        raise ConfigError(f"{MOST_QUEUED} jobs are already queued: wait for some to finish, or cancel some")
    job = app.jobs.submit(kind, config, out, title)
    app.call_worker()
    return job


def resume(app: App, id: str) -> Job:
    """Queue an interrupted job again."""
    job = app.jobs.resume(id)
    app.call_worker()
    return job


def train_config(app: App, dataset: str, values: Mapping[str, Any], more: str = "") -> Any:
    """The settings of a training: `values` without what is empty, then `more`, lines of KEY: VALUE.

    Raises ConfigError, also for settings that would name files.
    """
    from dreamtune.pipelines.train.options import train_config as complete

    given = {key: value for key, value in values.items() if value not in (None, "")}
    if "class_word" not in given:
        raise ConfigError("the class is empty: enter what the subject is, e.g. dog")
    given |= {"images": app.workspace.dataset(dataset), "base": app.workspace.base(given.get("base", "pocket"))}
    settings = []
    for line in (line.strip() for line in more.splitlines()):
        if not line or line.startswith("#"):
            continue
        key, sign, value = line.partition("=" if "=" in line and ":" not in line.partition("=")[0] else ":")
        if key.strip().partition(".")[0] in _SET_ELSEWHERE:
            raise ConfigError(f"{key.strip()} cannot be set here: use the fields above")
        if not sign:
            raise ConfigError(f"{line[:80]!r} is not a setting: write KEY: VALUE, e.g. lr: 0.0005")
        settings.append(f"{key.strip()}={value.strip()}")
    return complete(given, settings)


def run_place(app: App, dataset: str, method: str, name: str) -> Path:
    """Folder of a new run: of this name, or of the first free one after pictures and method."""
    runs = app.workspace.runs
    if name.strip():
        return app.workspace.place(runs, name)
    taken = {job.out for job in app.jobs.list()}
    stem = f"{app.workspace.dataset(dataset).name.removeprefix('sample-')}-{method}"
    place, number = app.workspace.free_place(runs, stem), 1
    while place in taken:
        number += 1
        place = app.workspace.free_place(runs, f"{stem}-{number}")
    return place


def train(app: App, dataset: str, values: Mapping[str, Any], more: str = "", name: str = "") -> Job:
    """Queue a training."""
    config = train_config(app, dataset, values, more)
    place = run_place(app, dataset, config.method, name)
    return submit(app, "train", config, place, f"{place.name}: {config.class_word}, {config.method}")


def free_word(app: App) -> str:
    """A token for the next subject that neither an adapter nor a running training uses."""
    trainings = [job.id for job in app.jobs.list() if job.kind == "train" and job.state in UNFINISHED]
    return library.free_word(app.workspace, [app.jobs.settings(id).get("token", "sks") for id in trainings])


def plan(app: App, dataset: str, values: Mapping[str, Any], more: str, on_progress: OnProgress) -> PlanResult:
    """The cost of a training, from two timed steps. Writes nothing."""
    from dreamtune.pipelines.train.plan import plan as measure

    config = train_config(app, dataset, values, more)
    return measure(config, run_place(app, dataset, config.method, ""), on_progress)


def check(app: App, dataset: str, base: str, class_word: str, token: str) -> CheckResult:
    """Check a set of images."""
    from dreamtune.pipelines.train.check import check as look

    return look(
        app.workspace.dataset(dataset),
        app.workspace.base(base),
        token=token or None,
        class_word=class_word or "subject",
    )


def fuse(
    app: App,
    picks: Sequence[Pick],
    method: str,
    name: str,
    density: float | None,
    balance: bool,
    whole: bool = False,
    text: float = 1.0,
) -> Job:
    """Queue a fusion. whole: keep all of every layer; text: see :func:`used`."""
    if len(picks) < 2:
        raise ConfigError("choose at least two adapters to fuse")
    label = name.strip() or "-".join(pick.rpartition("/")[2] for pick, _ in picks)[:60].strip(" .-_")
    place = app.workspace.place(app.workspace.adapters, label, ".safetensors") if name.strip() else None
    place = place or app.workspace.free_place(app.workspace.adapters, label, ".safetensors")
    thinned = density if method in ("ties", "dare", "magnitude", "knots") else None
    even = "weights" if balance else None
    rank = {"rank": "full"} if whole else {}
    base = allowed_base(app.workspace, [pick for pick, _ in picks])
    config = {"adapters": used(app, picks, text), "method": method, "balance": even, "density": thinned, **rank}
    config |= {} if base == AUTO else {"base": base}
    return submit(app, "fuse", config, place, f"{place.stem}: {method} of {len(picks)}")


def one_word(app: App, picks: Sequence[Pick]) -> list[str]:
    """Remarks on adapters that share a token."""
    from dreamtune.pipelines.adapter_ref import AdapterRef
    from dreamtune.pipelines.fuse.check import one_word as remarks

    return remarks([AdapterRef.load(text) for text in used(app, picks)])


def analyze(app: App, names: Sequence[str], name: str, options: Mapping[str, Any]) -> Job:
    """Queue an analysis."""
    if not names:
        raise ConfigError("choose an adapter to analyze; two or more are compared")
    label = name.strip() or " and ".join(pick.rpartition("/")[2] for pick in names)[:60].strip(" .-_")
    place = app.workspace.free_place(app.workspace.reports, plain_name(label))
    config = {"adapters": [str(app.workspace.adapter(pick)) for pick in names], **options}
    config["base"] = allowed_base(app.workspace, names)
    return submit(app, "analyze", config, place, f"{place.name}: directions")


def evaluate(app: App, name: str, dataset: str) -> Job:
    """Queue an evaluation of an adapter against pictures of its subject."""
    place = app.workspace.free_place(app.workspace.reports, f"{name.rpartition('/')[2]} scores")
    config = {"adapter": str(app.workspace.adapter(name)), "images": app.workspace.dataset(dataset)}
    config["base"] = allowed_base(app.workspace, [name])
    return submit(app, "evaluate", config, place, f"{place.name}")


def forecast(app: App, picks: Sequence[Pick], on_progress: OnProgress) -> list[str]:
    """What to expect of the adapters together, in sentences."""
    from dreamtune.pipelines.analyze.advice import advice
    from dreamtune.pipelines.analyze.config import AnalyzeConfig
    from dreamtune.pipelines.analyze.run import analyze as study

    if len(picks) < 2:
        raise ConfigError("choose at least two adapters: a forecast compares them")
    names = [name for name, _ in picks]
    files, base = tuple(str(app.workspace.adapter(name)) for name in names), allowed_base(app.workspace, names)
    report = study(AnalyzeConfig(adapters=files, base=base), None, on_progress)
    return [*advice(report), *report.remarks] or ["The measurements show no problem with using them together."]


def draw(
    app: App, picks: Sequence[Pick], values: Mapping[str, Any], on_progress: OnProgress, regions: Sequence[str] = ()
) -> GenerateResult:
    """Generate images; values: further settings of GenerateConfig, without those that are None.

    `text_encoders` among them is the factor of :func:`used`. regions: names of the adapters in that setting.
    """
    from dreamtune.pipelines.generate.run import GenerateConfig, generate

    given = {key: value for key, value in values.items() if value is not None}
    text = float(given.pop("text_encoders", 1.0))
    if given.get("base", AUTO) != AUTO:
        given["base"] = app.workspace.base(given["base"])
    else:
        given["base"] = allowed_base(app.workspace, [*(name for name, _ in picks), *regions])
    if not all(prompt.strip() for prompt in given["prompts"]):
        raise ConfigError("the prompt is empty: describe the image")
    if given.get("n", 4) * len(given["prompts"]) > MOST_PICTURES:
        raise ConfigError(f"at most {MOST_PICTURES} images at once: lower their number")
    result = generate(
        GenerateConfig(adapters=tuple(used(app, picks, text)), **given), app.workspace.pictures, on_progress
    )
    if len(picks) == 1 and picks[0][1] > 0 and not given.get("regions"):
        _show(app, picks[0][0], result.files[0])
    return result


def _show(app: App, name: str, picture: Path) -> None:
    """Let the library show this picture for an adapter."""
    place = app.workspace.pictures / "shown" / f"{name.rpartition('/')[2]}.png"
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(picture, place)


def used(app: App, picks: Sequence[Pick], text: float = 1.0) -> list[str]:
    """FILE:STRENGTH of each, with the further factor `text` on what those do to text encoders that change them."""
    factor = "" if text == 1 else f",te={text:g}"
    return [
        f"{app.workspace.adapter(name)}:{strength:g}{factor if factor and reads_text(app, name) else ''}"
        for name, strength in picks
    ]


def reads_text(app: App, name: str) -> bool:
    """Whether an adapter changes text encoders."""
    return any(part.startswith("text_encoder") for part in library.entry(app.workspace, name).parts)
