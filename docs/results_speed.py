"""The part of docs/results.md on times and memory, and what all parts are made with."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.quality_work import base_digest
from dreamtune.training.reference import table


def load(name: str) -> dict[str, Any] | None:
    """A file of results, if it is there."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def about(report: dict[str, Any]) -> str:
    """What a report was measured on."""
    it = report["about"]
    return f"{it['device']} ({it['cores']} cores, torch {it['versions']['torch']}, commit {it['commit']})"


def of_earlier_base(report: dict[str, Any]) -> str:
    """A remark if the embedded base has changed since; nothing of reports that no base has a part in."""
    base = report.get("base", report.get("about", {}).get("base"))
    return "" if base in (None, base_digest()) else "**Measured on an earlier embedded base than today's.**\n"


def missing(title: str, command: str) -> str:
    """A part that has not been measured."""
    return f"## {title}\n\nNot measured yet: `{command}`.\n"


def speed() -> str:
    """Times and memory."""
    parts = ["## Speed\n"]
    files = sorted(RESULTS.glob("speed-*.json"))
    if files:
        parts += ["### A training step\n", _STEP_TEXT.lstrip(), _steps([json.loads(it.read_text()) for it in files])]
    step = load("step")
    if step:
        parts += ["### An optimizer step on a CPU\n", _cpu_step(step)]
    parts += [
        _layers(load("layers")),
        _costs(load("costs")),
        _time_to_subject(load("time-to-subject")),
        _use(load("use")),
        _regions(load("regions")),
        _analyzer(load("analyzer")),
    ]
    return "\n".join(parts)


_STEP_TEXT = """
Forward and backward pass of a UNet of that size with random weights and LoRA of rank 8 on all attention layers, beside
PEFT with the same factors (`python -m benchmarks.speed`). On an H200 a step is limited by kernel launches, not by
arithmetic; `launch` has SDXL's number of layers, each tiny, and shows that cost on a CPU. Files without a commit were
measured before the host time per layer fell by a third ([log](log.md)), and have not been measured again.
"""


def _steps(reports: list[dict[str, Any]]) -> str:
    body = []
    for report in reports:
        base = report["rows"][0]
        for row in report["rows"]:
            more = (row["saved_bytes"] - base["saved_bytes"]) / 2**20
            body.append(
                [
                    *(report["about"]["device"], report["size"], report["precision"], row["name"]),
                    f"{row['seconds'] * 1e3:.1f}",
                    *(f"{row['ratio']:.3f}", f"{more:+.0f}" if row is not base else ""),
                ]
            )
    return table(["device", "UNet", "precision", "", "ms", "÷ frozen base", "MiB kept, beyond the base's"], body)


def _cpu_step(report: dict[str, Any]) -> str:
    body = [[row["name"], f"{row['cpu_seconds']:.2f}", f"{row['peak_mib']:.0f}"] for row in report["rows"]]
    text = f"SD 1.5's UNet at {report['size']} px, dreamtune's loop and plain code with PEFT "
    text += f"(`python -m benchmarks.step`), one thread of {about(report)}.\n\n"
    ratios = ", ".join(f"{name} {value:.2f}" for name, value in report["ratios"].items())
    return text + table(["", "CPU s", "peak MiB"], body) + f"\ndreamtune / PEFT: {ratios}.\n"


def _layers(report: dict[str, Any] | None) -> str:
    title = "### Attention layers"
    if report is None:
        return f"{title}\n\nNot measured yet: `make bench-layers`.\n"
    found = {(row["library"], row["method"]): row for row in report["rows"]}
    libraries = list(dict.fromkeys(library for library, _ in found))
    body = [
        [method, *(_cell(found.get((library, method))) for library in libraries)]
        for method in dict.fromkeys(method for _, method in found)
    ]
    text = (
        f"Forward and backward pass of SD 1.5's 128 attention layers at 512 pixels, rank {report['rank']}, on "
        f"{about(report)}, one CPU thread (`make bench-layers`). Time relative to the frozen layers, and MB kept for "
        "the backward pass. Medians of alternating passes.\n\n"
    )
    return f"{title}\n\n{text}" + table(["method", *libraries], body)


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['ratio']:.2f}, {row['saved_mb']:.0f} MB"


_REMEDIES = {
    "thin products": "products with the factors; one kernel for W and the factors would read the input only once",
    "full products": "nothing while the change has full rank: it must be formed, or its gradient is as large as W",
    "Python and autograd": "host work around each layer; one graph of the whole step (CUDA graphs)",
    "copy": "precision and layout; factors stored in the memory layout that products need",
    "mul": "one pass over a matrix as large as W; a kernel that multiplies while it forms the product",
    "add": "one pass over a matrix as large as W; a kernel that adds while it forms the product",
    "addcmul": "one pass over a matrix as large as W; a kernel that forms W₁ ⊗ W₂ block by block",
    "sum": "sums over all tokens for the magnitude's gradient, one pass over the gradient",
}


def _costs(report: dict[str, Any] | None) -> str:
    if report is None:
        return "### Where the methods spend their time\n\nNot measured yet: `make bench-speed`.\n"
    body = [
        [method, f"{row['ratio']:.2f}", *(f"{it['operation']} {it['share']:.0%}" for it in row["costs"])]
        for method, row in report["methods"].items()
    ]
    met = {it["operation"] for row in report["methods"].values() for it in row["costs"]}
    text = (
        f"Forward and backward pass of SD 1.5's attention layers, rank {report['rank']}, one thread of "
        f"{about(report)}, by torch's profiler, which overstates small operations (`python -m benchmarks.costs`). Time "
        "relative to the frozen layers, and the largest shares of what a method adds.\n\n"
    )
    told = "".join(f"* **{name}**: {remedy}.\n" for name, remedy in _REMEDIES.items() if name in met)
    return (
        f"### Where the methods spend their time\n\n{text}"
        + table(["method", "÷ frozen layers", "first", "second", "third"], body)
        + f"\nWhat would remove them:\n\n{told}"
    )


def _time_to_subject(report: dict[str, Any] | None) -> str:
    if report is None:
        return "### Time to subject\n\nNot measured yet: `make bench-speed`.\n"
    body = [[row["subject"], row["method"], f"{row['seconds']:.1f}"] for row in report["rows"]]
    text = (
        f"Seconds of training until subject fidelity reaches {report['share']} of its final value after "
        f"{report['steps']} steps, for LoRA with about {report['budget']:,} parameters in the same loop, on "
        f"{about(report)}.\n\n"
    )
    means = ", ".join(f"{name} {value:.1f} s" for name, value in report["means"].items())
    return f"### Time to subject\n\n{text}" + table(["subject", "by", "s"], body) + f"\nMeans: {means}.\n"


def _use(report: dict[str, Any] | None) -> str:
    if report is None:
        return "### Using adapters\n\nNot measured yet: `make bench-speed`.\n"
    names = {
        "drawing": f"generate {report['pictures']} images in {report['steps']} steps, adapters: ",
        "handling": "an adapter: ",
        "starting": "start ",
    }
    body = [[f"{names[part]}{name}", f"{s:.3f}"] for part in names for name, s in report[part].items()]
    return f"### Using adapters\n\nMedians on {about(report)}; one CPU thread.\n\n" + table(["", "s"], body)


def _regions(report: dict[str, Any] | None) -> str:
    title = "### Two regions"
    if report is None:
        return f"{title}\n\nNot measured yet: `make bench-speed`.\n"
    body = [
        [
            *(name, f"{it['plain_seconds']:.2f}", f"{it['regions_seconds']:.2f}"),
            f"{it['ratio']:.2f} ({it['ratios'][0]:.2f} to {it['ratios'][1]:.2f})",
            f"{it['processor_ratio']:.2f}",
        ]
        for name in ("pocket", "sd15")
        if (it := report.get(name))
    ]
    text = (
        "Generation with two adapters in two regions, relative to one merged adapter, alternating, on "
        f"{about(report)} (`python -m benchmarks.regions`). sd15 is a random UNet of that size at 512 pixels.\n\n"
    )
    return f"{title}\n\n{text}" + table(["UNet", "plain, s", "regions, s", "ratio (range)", "ratio of CPU time"], body)


def _analyzer(report: dict[str, Any] | None) -> str:
    title = "### The analyzer"
    if report is None:
        return f"{title}\n\nNot measured yet: `make bench-speed`.\n"
    rows = {(row["method"], row["adapters"]): row for row in report["rows"] if row["cached"]}
    counts = sorted({count for _, count in rows})
    body = [
        [method, *(f"{rows[method, count]['wall']:.0f} ({rows[method, count]['cpu']:.0f})" for count in counts)]
        for method in report["costs"]
    ]
    first = next(row for row in report["rows"] if not row["cached"])
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    text = (
        f"Seconds (in parentheses: CPU time) for adapters of rank {report['rank']} on SD 1.5's 128 attention layers, "
        f"on {about(report)}, {threads} (`python -m benchmarks.analyzer`), with cached singular vectors; these take "
        f"{first['svd']:.0f} s of CPU time more, once. Peak memory {report['peak_mb']} MiB.\n\n"
    )
    heads = [f"{count} adapter{'s' if count > 1 else ''}" for count in counts]
    return f"{title}\n\n{text}" + table(["method", *heads], body)
