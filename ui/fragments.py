"""Pieces of HTML. Whatever comes from outside is escaped here, by name, caption and message."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from dreamtune.pipelines.datasets import small_view
from dreamtune.pipelines.jobs.job import Job
from dreamtune.pipelines.progress import clock
from dreamtune.text import inert

Curve = Sequence[tuple[int, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 170, 44, 22
_PHASES = {
    "train": "training",
    "latents": "encoding images",
    "prior": "generating class images",
    "pictures": "reading images",
    "score": "evaluating",
    "fuse": "fusing layers",
    "analyze": "analyzing layers",
}


def text(value: object) -> str:
    """Escaped, also against templates (the page reads `${` and `{{` as code of its own) and what turns text around."""
    return (
        escape(inert(str(value)))
        .replace("{", "&#123;")
        .replace("}", "&#125;")
        .replace("$", "&#36;")
        .replace("`", "&#96;")
    )


def picture(path: Path, alt: str, side: int = 256) -> str:
    """A small view inside the page itself, so that no file needs to be served."""
    data = small_view(path, side)
    if data is None:
        return f'<span class="dt-blank" role="img" aria-label="{text(alt)}"></span>'
    return f'<img src="data:image/webp;base64,{base64.b64encode(data).decode()}" alt="{text(alt)}" loading="lazy">'


def tiles(pictures: Iterable[tuple[Path, str, Sequence[tuple[str, str]]]]) -> str:
    """Pictures with a name and (kind, remark) lines under each."""
    cards = []
    for path, name, remarks in pictures:
        lines = "".join(f'<li class="dt-{text(kind)}">{text(line)}</li>' for kind, line in remarks)
        cards.append(
            f'<figure class="dt-tile">{picture(path, name)}<figcaption title="{text(name)}">{text(name)}'
            f"{f'<ul>{lines}</ul>' if lines else ''}</figcaption></figure>"
        )
    return f'<div class="dt-tiles">{"".join(cards)}</div>'


def hint(message: str) -> str:
    """A quiet line."""
    return f'<p class="dt-hint">{text(message)}</p>'


def state(job: Job) -> str:
    """A job's state as a small mark."""
    return f'<span class="dt-state dt-{text(job.state)}">{text(job.state)}</span>'


def progress(job: Job) -> str:
    """Title, state, bar and what is known of the time."""
    share = job.done / job.total if job.done is not None and job.total else 0.0
    share = 1.0 if job.state == "done" else share
    parts = []
    if job.state in ("running", "stopping"):
        phase = _PHASES.get(job.phase or "", job.phase or "starting")
        parts.append(f"{phase} {job.done} of {job.total}" if job.total else phase)
        if job.eta is not None:
            parts.append(f"{clock(job.eta)} left")
    elif job.state == "queued":
        parts.append(f"number {job.position} in the queue")
    elif job.started and job.finished and job.state == "done":
        parts.append(f"took {clock(job.finished - job.started)}")
    if job.message and job.state in ("failed", "interrupted", "running", "stopping"):
        parts.append(job.message)
    unknown = job.state == "running" and not job.total
    return f"""<div class="dt-job" data-state="{text(job.state)}">
<div class="dt-row"><strong>{text(job.title)}</strong>{state(job)}</div>
<div class="dt-bar{" dt-wait" if unknown else ""}" role="progressbar" aria-label="Progress of {text(job.title)}"
 aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share * 100:.0f}">
<span style="width:{share * 100:.1f}%"></span></div>
<p class="dt-hint">{text(" · ".join(parts))}</p></div>"""


def plot(title: str, curves: Sequence[tuple[str, Curve]]) -> str:
    """Curves over steps as an SVG that follows the page's colors; nothing with fewer than two points."""
    known = [(name, curve) for name, curve in curves if len(curve) > 1]
    if not known:
        return ""
    points = [point for _, curve in known for point in curve]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - first) / max(1, last - first) * (_WIDTH - _LEFT - 8)
        return f"{across:.1f},{8 + (high - y) / (high - low) * (_HEIGHT - _BOTTOM - 8):.1f}"

    lines = "".join(
        f'<polyline class="dt-line{number}" points="{" ".join(place(*point) for point in curve)}"/>'
        for number, (_, curve) in enumerate(known)
    )
    names = " ".join(
        f'<span class="dt-key{number}">{text(name)} {curve[-1][1]:.3g}</span>'
        for number, (name, curve) in enumerate(known)
    )
    return f"""<figure class="dt-plot"><figcaption>{text(title)} <small>{names}</small></figcaption>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)} by step, last {known[0][1][-1][1]:.3g}">
<path class="dt-axis" d="M{_LEFT},8V{_HEIGHT - _BOTTOM}H{_WIDTH - 8}"/>{lines}
<text x="{_LEFT - 6}" y="14" text-anchor="end">{high:.2g}</text>
<text x="{_LEFT - 6}" y="{_HEIGHT - _BOTTOM}" text-anchor="end">{low:.2g}</text>
<text x="{_LEFT}" y="{_HEIGHT - 6}">{first}</text>
<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">step {last}</text></svg></figure>"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A table of cells that are HTML already."""
    cells = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="dt-wide" tabindex="0" role="region" aria-label="{text(label)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def button(verb: str, id: str, words: str, about: str) -> str:
    """A button inside a fragment, which the page's listener hands on (see assets/clicks.js)."""
    return (
        f'<button type="button" class="dt-button" data-verb="{text(verb)}" data-id="{text(id)}" '
        f'aria-label="{text(words)}: {text(about)}">{text(words)}</button>'
    )
