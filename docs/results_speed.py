"""The part of docs/results.md on times and memory, and what all parts are made with."""

from __future__ import annotations

import json
from pathlib import Path
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
        parts += [
            "### A training step on a GPU\n",
            _STEP_TEXT.lstrip(),
            _steps([json.loads(it.read_text()) for it in files], files),
        ]
    step = load("step")
    if step:
        parts += ["### An optimizer step on a CPU\n", _cpu_step(step)]
    parts += [_costs(load("costs")), _time_to_subject(load("time-to-subject")), _use(load("use"))]
    return "\n".join(parts)


_STEP_TEXT = """
Forward and backward pass of a UNet of that size with random weights, LoRA of rank 8 on all attention layers, beside
PEFT with the same factors (`python -m benchmarks.speed`). On this device a step waits for the launch of kernels rather
than for arithmetic.
"""


def _steps(reports: list[dict[str, Any]], files: list[Path]) -> str:
    body = []
    for report, file in zip(reports, files, strict=True):
        base = report["rows"][0]
        for row in report["rows"]:
            more = (row["saved_bytes"] - base["saved_bytes"]) / 2**20
            size = file.stem.split("-")[2]
            body.append(
                [
                    *(report["device"], size, report["precision"], row["name"], f"{row['seconds'] * 1e3:.1f}"),
                    *(f"{row['ratio']:.3f}", f"{more:+.0f}" if row is not base else ""),
                ]
            )
    return table(["device", "UNet", "precision", "", "ms", "÷ frozen base", "MiB kept, beyond the base's"], body)


def _cpu_step(report: dict[str, Any]) -> str:
    body = [[row["name"], f"{row['cpu_seconds']:.2f}", f"{row['peak_mib']:.0f}"] for row in report["rows"]]
    text = f"SD 1.5's UNet at {report['size']} px, dreamtune's loop beside plain code with PEFT "
    text += "(`python -m benchmarks.step`).\n\n"
    ratios = ", ".join(f"{name} {value:.2f}" for name, value in report["ratios"].items())
    return text + table(["", "CPU s", "peak MiB"], body) + f"\ndreamtune / PEFT: {ratios}.\n"


_REMEDIES = {
    "thin products": "the factors' own arithmetic; one kernel for W and the factors would read the input once",
    "full products": "none while the change has full rank: it must be formed, or its gradient is as large as W",
    "Python and autograd": "what the host does around a layer: one graph of the whole step (CUDA graphs)",
    "copy": "precision and layout: factors kept in the order of memory that products want",
    "mul": "one pass over a matrix as large as W: a kernel that does it while it forms the product",
    "add": "one pass over a matrix as large as W: a kernel that adds while it forms the product",
    "addcmul": "one pass over a matrix as large as W: a kernel that forms W₁ ⊗ W₂ block by block",
    "sum": "sums over all tokens for the magnitude's gradient, one pass over the gradient",
}


def _costs(report: dict[str, Any] | None) -> str:
    if report is None:
        return "### What the methods' time is spent on\n\nNot measured yet: `make bench-speed`.\n"
    body = [
        [method, f"{row['ratio']:.2f}", *(f"{it['operation']} {it['share']:.0%}" for it in row["costs"])]
        for method, row in report["methods"].items()
    ]
    met = {it["operation"] for row in report["methods"].values() for it in row["costs"]}
    text = (
        f"Forward and backward pass of SD 1.5's attention layers, rank {report['rank']}, one thread of "
        f"{about(report)}, by torch's profiler, which makes small operations look larger (`python -m "
        "benchmarks.costs`): time over the frozen layers', and the largest shares of what a method adds.\n\n"
    )
    told = "".join(f"* **{name}**: {remedy}.\n" for name, remedy in _REMEDIES.items() if name in met)
    return (
        f"### What the methods' time is spent on\n\n{text}"
        + table(["method", "÷ frozen layers", "first", "second", "third"], body)
        + f"\nWhat would remove them:\n\n{told}"
    )


def _time_to_subject(report: dict[str, Any] | None) -> str:
    if report is None:
        return "### Time to subject\n\nNot measured yet: `make bench-speed`.\n"
    body = [[row["subject"], row["method"], f"{row['seconds']:.1f}"] for row in report["rows"]]
    text = (
        f"Seconds of training until subject fidelity reaches {report['share']} of its last value after "
        f"{report['steps']} steps, LoRA of about {report['budget']:,} numbers in the same loop, on {about(report)}.\n\n"
    )
    means = ", ".join(f"{name} {value:.1f} s" for name, value in report["means"].items())
    return f"### Time to subject\n\n{text}" + table(["subject", "by", "s"], body) + f"\nMeans: {means}.\n"


def _use(report: dict[str, Any] | None) -> str:
    if report is None:
        return "### Using adapters\n\nNot measured yet: `make bench-speed`.\n"
    names = {
        "drawing": f"draw {report['pictures']} pictures in {report['steps']} steps with adapters: ",
        "handling": "an adapter: ",
        "starting": "start ",
    }
    body = [[f"{names[part]}{name}", f"{s:.3f}"] for part in names for name, s in report[part].items()]
    return f"### Using adapters\n\nMedians on {about(report)}; on a CPU with one thread.\n\n" + table(["", "s"], body)
