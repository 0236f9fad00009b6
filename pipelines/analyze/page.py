"""The page, images and JSON of an analysis."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from dreamtune.pipelines.analyze.advice import leading, on_adapters, on_pairs, overall
from dreamtune.pipelines.analyze.figures import figures
from dreamtune.pipelines.analyze.study import Study

_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; } figcaption { color: #444; font-size: .95rem; }
.wide { overflow-x: auto; } .wide img { min-width: 36rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }
th { white-space: normal; overflow-wrap: normal; vertical-align: bottom; } summary { cursor: pointer; }
th:first-child, td:first-child { text-align: left; } dt { font-weight: 600; margin-top: .6rem; }"""
_SHOWN = 8
"""Longest list of advice that is open at first."""
_TITLES = {
    "matches": "Which directions match",
    "overlap": "Overlap by layer",
    "blocks": "Overlap by block",
    "matrices": "All pairs",
    "spectrum": "Where in the spectrum",
    "projections": "Which parts of the weight",
    "crosstalk": "Interference by layer",
    "timesteps": "When each adapter acts",
    "trajectory": "How early the directions emerge",
    "health": "Health by layer",
}
_INTRODUCTION = (
    "A weight of the base is a sum of directions, a few strong and many weak. Relative to their strength, an adapter "
    "changes a few of them a lot and most of them hardly at all: the former are its task-specific directions in that "
    "layer. Two adapters that share many of them change the base in similar ways. Whether they disturb each other is a "
    "separate question: see the table and figures on interference."
)
_MEANINGS = {
    "Change": "Size of the change relative to the weight, ‖ΔW‖ / ‖W‖; median over layers.",
    "Rank": "Number of directions in the change, for the layer with the most.",
    "Stable rank": "Number of directions that really matter in a layer's change; median over layers.",
    "Rank for 95%": "The smallest rank that keeps 95% of the change in every layer.",
    "On the core": "Share of the change that only strengthens or weakens directions the weight already has; median.",
    "Intruders": "Directions among the ten strongest of the changed weights that resemble none of the base's.",
    "Amplification": "How much the adapter strengthens the directions it changes most; 1 means not at all.",
    "Overlap, chance": "Share of most-changed directions that both have in common; the same for unrelated changes on "
    "these weights.",
    "z": "Overlap above chance in standard deviations of chance: above 3 it is no accident.",
    "Rank-biased": "The same as overlap, but the strongest directions count most.",
    "Cosine": "Whether the full changes point the same way (1), are unrelated (0) or cancel out (-1).",
    "Norms": "Size of the first change relative to the second.",
}
Picture = tuple[str, bytes, str]
"""Name, PNG and caption."""


def document(study: Study, pictures: Sequence[Picture]) -> str:
    """The complete page, with its figures."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{escape(_title(study))}</title><style>{_STYLE}</style></head><body>
{_body(study, pictures)}
</body></html>
"""


def body(study: Study) -> str:
    """The content of the page, with its figures, to embed in another page."""
    return _body(study, list(drawn(study)))


def drawn(study: Study) -> Iterable[Picture]:
    """Its figures."""
    for name, figure, caption in figures(study):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        yield name, buffer.getvalue(), caption


def _title(study: Study) -> str:
    return f"Directions of {', '.join(study.names)}"


def _body(study: Study, pictures: Sequence[Picture]) -> str:
    about = _list([*overall(study), *study.remarks])
    shown = "".join(
        f'<h2>{escape(_TITLES[name])}</h2><figure><div class="wide">'
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(_TITLES[name])}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for name, png, caption in pictures
    )
    meanings = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _MEANINGS.items())
    return f"""<h1>{escape(_title(study))}</h1>
<p>{len(study.adapters)} adapters on the base {escape(study.base)}, {len(study.layers)} layers, the top
{study.top_k} directions of each. All numbers are in report.json.</p>
<p>{_INTRODUCTION}</p>
{_together(study)}
{about}
<h2>Each adapter</h2>{_health(study)}{_folded("Advice on each adapter", on_adapters(study))}
{f"<h2>Each pair</h2>{_pairs(study)}{_folded('Advice on each pair', on_pairs(study))}" if study.numbers else ""}
{_relations(study)}
{_interference(study)}
{shown}
<h2>What the numbers mean</h2><dl>{meanings}</dl>"""


def _together(study: Study) -> str:
    """The reliable lines, first of all."""
    lines = leading(study)
    return f"<h2>Together in one image</h2>{_list(lines[:-1])}<p>{escape(lines[-1])}</p>" if lines else ""


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _folded(title: str, lines: Sequence[str]) -> str:
    """A collapsible list; long ones are closed at first."""
    if not lines:
        return ""
    shown = " open" if len(lines) <= _SHOWN else ""
    return f"<details{shown}><summary>{escape(title)}</summary>{_list(lines)}</details>"


def _health(study: Study) -> str:
    rows = []
    for number, (name, info) in enumerate(zip(study.names, study.adapters, strict=True)):
        found = study.health(number)
        rows.append(
            (
                name,
                info.method,
                found["layers"],
                found["relative"],
                found["rank"],
                found["stable_rank"],
                found["trim_to"],
                found["core_share"],
                found["intruder_dimensions"],
                found["amplification"].get("all"),
                found["near_zero_layers"],
            )
        )
    head = (
        "",
        "method",
        "layers",
        "change",
        "rank",
        "stable rank",
        "rank for 95%",
        "on the core",
        "intruders",
        "amplification",
        "empty",
    )
    return _table(head, rows)


def _pairs(study: Study) -> str:
    rows = []
    for a, b in study.numbers:
        pair = study.pair(a, b)
        keys = ("layers", "overlap", "overlap_chance", "z", "rbo", "spearman", "left", "right", "cosine", "norm_ratio")
        rows.append((f"{study.names[a]} / {study.names[b]}", *(pair[key] for key in keys)))
    head = ("", "layers", "overlap", "chance", "z", "rank-biased", "Spearman", "φ left", "φ right", "cosine", "norms")
    return _table(head, rows)


def _relations(study: Study) -> str:
    found = study.relations()
    if not found:
        return ""
    keys = ("pairs", "overlap", "lowest_pair", "highest_pair", "above_chance", "above_chance_low", "above_chance_high")
    rows = [(name, *(figures[key] for key in keys)) for name, figures in found.items()]
    head = ("", "pairs", "overlap", "lowest", "highest", "above chance", "from", "to")
    note = (
        "The interval is two standard errors over the layers on each side. Pairs of the same seed started from the "
        "same random values and are similar for that reason."
    )
    return f"<h2>Kinds of pairs</h2>{_table(head, rows)}<p>{note}</p>"


def _interference(study: Study) -> str:
    if study.interference is None or not study.numbers:
        return ""
    total, names, rows = study.interference.total().tolist(), study.names, []
    for forecast in study.interference.advice():
        a, b = forecast.a, forecast.b
        first, second = forecast.strengths or (None, None)
        drowning = "" if forecast.dominant is None else names[forecast.dominant]
        defined = forecast.strengths is not None
        rows.append(
            (
                f"{names[a]} / {names[b]}",
                total[a][b] if defined else None,
                total[b][a] if defined else None,
                first,
                second,
                drowning if defined else None,
                len(forecast.route) if defined else None,
            )
        )
    head = (
        "",
        "second on first",
        "first on second",
        "strength of first",
        "strength of second",
        "drowns out the other",
        "layers to route",
    )
    note = (
        "The first two columns are X: the squared size of the added adapter's change relative to the other's own "
        "change, on what the layers see while the other generates. Next are the strengths at which both act equally, "
        "and the number of layers where even then each changes the other's output more than the other's own adapter "
        "does: there regions work better than a merge."
    )
    return f"<h2>Interference of each pair</h2>{_table(head, rows)}<p>{note}</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(value: str | float | None) -> str:
    """A dash for an undefined value."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else f"{value:.3g}"
