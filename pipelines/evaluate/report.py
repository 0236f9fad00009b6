"""The report of `evaluate`: JSON for programs, a page and a sheet of images for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from dreamtune.evaluation import Measurement
from dreamtune.pipelines.contact_sheet import sheet
from dreamtune.pipelines.output import write_png

COLUMNS = 10
"""Prompts shown on the sheet of images; the numbers cover all of them."""
_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc; }
th, td:first-child { text-align: left; } td { text-align: right; } img { max-width: 100%; }
dt { font-weight: 600; margin-top: .6rem; }"""
_MEANINGS = {
    "Subject fidelity": "How much of the gap between the base's images of the class (0) and real images of the subject "
    "(1) the adapter closes, by likeness.",
    "Likeness": "Mean cosine similarity of identity embeddings to the real images; for real images, to each other.",
    "Prompt fidelity": "How well the images match their prompt, without the token. On pocket: the share of what the "
    "prompt asks for that is there (class, place, color). On other bases: CLIP's cosine similarity of image and text.",
    "Leak": "Subject fidelity of the bare class word with the adapter on: 0 if it still means the class in general.",
    "Drift": "Mean 1 - cosine similarity of identity embeddings of the class images without and with the adapter, from "
    "the same noise: 0 if the adapter leaves the class unchanged.",
}


def write_report(
    folder: Path, figures: dict[str, Any], measured: Measurement, references: Sequence[Image.Image]
) -> None:
    """Write report.json, report.html and pictures.png into the existing `folder`. Raises OSError.

    figures: see EvaluateResult.to_dict.
    """
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(_page(figures), encoding="utf-8")
    write_png(folder / "pictures.png", _pictures(figures, measured, references))


def _pictures(figures: dict[str, Any], m: Measurement, references: Sequence[Image.Image]) -> Image.Image:
    token, of_class = figures["token"], figures["class"]
    shown = slice(min(COLUMNS, len(m.by_prompt)))
    rows = {
        "real images of the subject": references[:COLUMNS],
        f"base: {of_class}": m.pictures_before[shown],
        f"adapter: {token} {of_class}, from the same noise": m.pictures_after[shown],
        f"adapter: {of_class}, from the same noise": m.pictures_class[shown],
    }
    return sheet(rows, [f"prompt {number}" for number, _ in enumerate(m.by_prompt[shown], 1)])


def _page(figures: dict[str, Any]) -> str:
    adapter = figures["adapter"]
    whole = [
        ("Subject fidelity", figures["subject_fidelity"]["base"], figures["subject_fidelity"]["adapter"], 1.0),
        *(
            (label, figures[key].get("base"), figures[key]["adapter"], figures[key].get("real"))
            for label, key in (("Likeness", "likeness"), ("Prompt fidelity", "prompt_fidelity"))
        ),
        ("Leak", 0.0, figures["leak"], None),
        ("Drift", 0.0, figures["drift"], None),
    ]
    each = [
        (
            f"{number}. {row['prompt']}",
            *(row[key][who] for key in ("likeness", "prompt_fidelity") for who in ("base", "adapter")),
            row["drift"],
        )
        for number, row in enumerate(figures["prompts"], 1)
    ]
    s = figures["sampling"]
    title = f"{adapter['file']}: {figures['token']} {figures['class']}"
    blocks = "".join(f", {block} × {factor:g}" for block, factor in adapter.get("blocks", {}).items())
    about = (
        f"Strength {adapter['strength']:g}{blocks} on the base {figures['base']}, judged by {figures['judge']}; "
        f"{s['per_prompt']} images per prompt, {s['size']} pixels, {s['steps']} steps, "
        f"guidance {s['guidance']:g}, seed {s['seed']}; compared with {figures['references']} real images."
    )
    meanings = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _MEANINGS.items())
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in figures["remarks"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(about)}</p>
{_table(("", "base", "adapter", "real images"), whole)}
<ul>{remarks}</ul>
<img src="pictures.png" alt="real images, and images of the base and the adapter from the same noise">
{_table(("prompt", "likeness, base", "adapter", "prompt fidelity, base", "adapter", "drift"), each)}
<h2>What the numbers mean</h2><dl>{meanings}</dl>
</body></html>
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(show(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def show(value: str | float | None) -> str:
    """A table cell; a dash for an unknown value."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.2f}"
