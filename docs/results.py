"""`python -m docs.results`: write docs/results.md, its figures and their part of the README anew.

Every number in them comes from a file in benchmarks/results/; a part without a file says by which command it is made.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.machine import RESULTS
from benchmarks.quality_statistics import by_subject, holm, interval, paired
from docs.results_figures import digest, draw_figure, draw_pictures
from docs.results_pairs import pairs
from docs.results_speed import about, load, missing, of_earlier_base, speed
from docs.results_together import anywhere, foretold
from dreamtune.storage import atomic
from dreamtune.training.reference import table

ROOT = Path(__file__).parents[1]
DOCUMENT, README = ROOT / "docs" / "results.md", ROOT / "README.md"
FIGURE, PICTURES = ROOT / "docs" / "images" / "results.png", ROOT / "docs" / "images" / "results-pictures.png"
_FIGURES = {
    "fidelity": "subject fidelity",
    "verified": "verified",
    "told_apart": "told apart",
    "prompt": "prompt fidelity",
    "both": "both",
    "diversity": "diversity",
    "memorised": "memorised",
    "leak": "leak",
    "drift": "drift",
}
"""Figures of a run and the heads of their columns."""

HEAD = """# Results

Made by `make docs` from the files in [benchmarks/results](../benchmarks/results), and never by hand: a test fails when
the two differ. Parts that were measured on an earlier embedded base than
today's say so. What contradicts a paper, or what we hoped for, is printed as it is.
"""

LEGEND = """
* **Subject fidelity**: the share of the way from the base's pictures of the class (0) to real pictures of the subject
  (1), by the identity encoder of the embedded base, over all prompts.
* **Verified**: share of pictures accepted as the subject at the threshold that accepts 1 % of look-alikes' pictures:
  other individuals of the same class, colours, pattern and hat. **Told apart**: share nearer to the subject than to the
  one look-alike that is held out beside it.
* **Prompt fidelity**: share of what is asked for that the picture shows: place, class, size, side. **Both**: harmonic
  mean of subject and prompt fidelity. A higher learning rate buys one with the other, and which rate a method got was
  decided on two subjects: this tells more of a method than either.
* **Diversity**: Vendi score of the pictures over that of the base's pictures for the same prompts and noise.
* **Memorised**: share of pictures nearer, in pixels, to a training photograph than to any of as many unseen ones in the
  same places; a model without memory has about one half.
* **Leak**: subject fidelity of the bare class word with the adapter on. **Drift**: squared change of the UNet's
  predictions for the bare class word, over their square.
* In parentheses: 95 % intervals by bootstrap over subjects.
"""


def document() -> str:
    """docs/results.md."""
    learned = [quality(load("quality")), claims(load("claims")), unseen(load("personalization"))]
    together = [anywhere(load("anywhere")), pairs(load("pairs")), foretold(load("foretold"))]
    parts = [HEAD, *learned, *together, speed()]
    return "\n".join(parts)


def readme(text: str) -> str:
    """The README with the one figure that says most between its marks, once there is one."""
    report = load("quality")
    part = ""
    if report is not None:
        methods = sum(not name.startswith("PEFT") for name in report["coverage"]["methods"])
        part = (
            f"![Subject fidelity of each method at equal numbers of trained parameters]({FIGURE.relative_to(ROOT)})\n\n"
            f"{methods} methods beside PEFT's on {len(report['coverage']['subjects'])} subjects that the base has "
            "never seen, in one loop (blue: ours; grey: PEFT's; dots: subject fidelity, 0 is the base, 1 real "
            "pictures, with 95 % intervals; rings: share of what prompts ask for). [All results]"
            "(docs/results.md), also those that contradict the papers.\n"
        )
    return re.sub(r"(<!-- results -->\n).*?(<!-- /results -->)", lambda it: it[1] + part + it[2], text, flags=re.DOTALL)


def quality(report: dict[str, Any] | None) -> str:
    """How well subjects are learned, at each budget."""
    title = "How well subjects are learned"
    if report is None:
        return missing(title, "make bench-quality")
    told, settings = report["coverage"], report["settings"]
    budgets = sorted({run["budget"] for run in report["runs"]})
    done = ", ".join(f"{it['budget']:,} (seed {it['seed']})" for it in told["levels"])
    left = ", ".join(f"{it['budget']:,} (seed {it['seed']})" for it in told["remaining"])
    lines = [
        f"## {title}\n",
        *filter(None, [of_earlier_base(report)]),
        f"`make bench-quality` on {about(report)}. The embedded base, {len(told['subjects'])} subjects that were used "
        f"for nothing else, in pairs of look-alikes ({', '.join(told['subjects'])}), {told['photographs']} photographs "
        "each; "
        f"{settings['steps']} steps of AdamW on {settings['batch_size']} + {settings['batch_size']} pictures, "
        f"{told['prompts']} prompts with {told['pictures_per_prompt']} pictures each. Every method has the same loop, "
        "data, noise and steps, and that learning rate of three which had the highest harmonic mean of subject and "
        f"prompt fidelity on other subjects ({', '.join(told['tuning_subjects'])}). PEFT's methods stand beside ours "
        "in the same loop.\n",
        f"Covered: budgets of {done} trained numbers. "
        + (f"Not covered: {left}.\n" if left else "That is all of it.\n"),
        LEGEND.lstrip(),
        "![Subject and prompt fidelity of each method at each budget, with intervals](images/results.png)\n",
        "![The first subject by each method, from the same noise](images/results-pictures.png)\n",
    ]
    for budget in budgets:
        rows = [run for run in report["runs"] if run["budget"] == budget]
        lines += [f"### About {budget:,} trained numbers\n", _budget(report, rows), _against(report, rows)]
    lines += ["### Learning rates\n", _rates(report)]
    return "\n".join(lines)


def _budget(report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = ["method", "trained", *_FIGURES.values(), "CPU s", "file kB"]
    body = []
    for kind in ("base", "real"):
        known = {subject: it[kind] for subject, it in report["anchors"].items()}
        cells = [
            f"{sum(it[name] for it in known.values()) / len(known):.2f}" if name in next(iter(known.values())) else ""
            for name in _FIGURES
        ]
        body.append([{"base": "the base", "real": "real pictures"}[kind], "", *cells, "", ""])
    for method in report["coverage"]["methods"]:
        own = [run for run in rows if run["method"] == method]
        cells = [_spread(by_subject(own, name)) for name in _FIGURES]
        seconds = interval(by_subject(own, "cpu_seconds")).mean
        body.append(
            [method, f"{own[0]['parameters']:,}", *cells, f"{seconds:.0f}", f"{own[0]['file_bytes'] / 1e3:.0f}"]
        )
    return table(head, body)


def _spread(values: dict[str, float]) -> str:
    found = interval(values)
    return f"{found.mean:.2f} ({found.low:.2f}–{found.high:.2f})"


def _against(report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Paired differences: each of ours to LoRA, and to the same method of PEFT."""
    methods = report["coverage"]["methods"]
    pairs = [(it, "lora") for it in methods if it != "lora" and not it.startswith("PEFT")]
    pairs += [(it.removeprefix("PEFT "), it) for it in methods if it.startswith("PEFT")]
    body = [[f"{one} less {other}"] for one, other in pairs]
    for figure in ("fidelity", "both"):
        of = {it: by_subject([run for run in rows if run["method"] == it], figure) for it in methods}
        found = [paired(of[one], of[other]) for one, other in pairs]
        corrected = holm({str(number): p for number, (_, p) in enumerate(found)})
        for number, (it, p) in enumerate(found):
            told = f"{it.mean:+.3f} ({it.low:+.3f} to {it.high:+.3f})"
            body[number] += [told, f"{p:.3f}", f"{corrected[str(number)]:.3f}"]
    tests = ["p (exact sign flips)", "p, Holm"]
    return table(["paired over subjects", "subject fidelity", *tests, "both", *tests], body)


def _rates(report: dict[str, Any]) -> str:
    body = []
    for budget, methods in sorted(report["rates"].items(), key=lambda it: int(it[0])):
        for method, it in methods.items():
            tried = ", ".join(
                f"{one['lr']:g}: "
                + (f"{one['subject']:.2f} / {one['prompt']:.2f}" if one["subject"] is not None else "no result")
                + ("" if one["acceptable"] else " (harms prompts or class)")
                for one in it["tried"]
            )
            edge = "yes" if it["at_the_edge"] else ""
            body.append([f"{int(budget):,}", method, f"{it['chosen']:g}", edge, tried])
    tuning = "subject / prompt fidelity on the tuning subjects"
    return table(["trained", "method", "taken", "at the edge", tuning], body)


def claims(report: dict[str, Any] | None) -> str:
    """What papers say, and what we find."""
    title = "Claims of the papers"
    if report is None:
        return missing(title, "make bench-claims")
    body = [[it["claim"], it["source"], it["criterion"], it["measured"], it["verdict"]] for it in report["claims"]]
    rates = ", ".join(f"{method} {rate:g}" for method, rate in report["settings"]["rates"].items())
    text = (
        f"`make bench-claims` on {about(report)}: {len(report['subjects'])} subjects, {report['settings']['steps']} "
        f"steps, learning rates chosen on others ({rates}). A claim holds when the 95 % intervals over subjects of all "
        "of its differences lie above 0, does not when one lies below, and is unclear otherwise. All of it is about a "
        "small base and short trainings.\n"
    )
    lines = [f"## {title}\n", *filter(None, [of_earlier_base(report)]), f"{text}\n"]
    return "\n".join(lines) + table(["claim", "source", "what would show it", "measured", "verdict"], body)


def unseen(report: dict[str, Any] | None) -> str:
    """The default recipe."""
    title = "The default recipe on unseen subjects"
    if report is None:
        return missing(title, "make bench-personalization")
    head = ["subject", "class", "subject fidelity", "leak", "drift", "prompt fidelity", "seconds"]
    body = [
        [
            *(str(it["subject"]), it["class"], f"{it['subject_fidelity']:.2f}", f"{it['leak']:.2f}"),
            *(f"{it['drift']:.2f}", f"{it['prompt_after']:.2f}", f"{it['seconds']:.0f}"),
        ]
        for it in report["subjects"]
    ]
    place = f" on {about(report)}" if "about" in report else ""
    told = [
        f"`make bench-personalization`{place}: LoRA by pocket's preset, scored by pictures it was not trained on. "
        "Seconds: class pictures, training and scores.\n",
        *filter(None, [of_earlier_base(report)]),
    ]
    return "\n".join([f"## {title}\n", *told, table(head, body)])


def main() -> None:
    """Entry point."""
    report = load("quality")
    if report is not None:
        drawn = {FIGURE: draw_figure(report), PICTURES: draw_pictures(report, Image.open(RESULTS / "quality.png"))}
        for path, figure in drawn.items():
            with atomic(path) as temporary:
                figure.savefig(
                    temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Source": digest("quality.json")}
                )
    DOCUMENT.write_text(document(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
