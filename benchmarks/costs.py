"""python -m benchmarks.costs [--out FILE.json] [--rank R] [--repeats N] [--methods NAME...].

What each method's time is spent on, beyond the frozen layer's own: the operations of `benchmarks.layers`' passes over
SD 1.5's attention layers, by torch's profiler, with the frozen layers' taken off. Products are told apart by their
smallest dimension: thin ones go through an adapter's rank. On one thread of a CPU.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.layers import BASE, Contestant, Measurement, kinds, parse
from benchmarks.machine import RESULTS, machine, write_results

SHOWN = 3
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")


def kind_of(name: str, shapes: Sequence[Sequence[int]], rank: int) -> str:
    """What an operation is counted as."""
    if name not in _PRODUCTS:
        return name.removeprefix("aten::").removesuffix("_")
    matrices = [shape for shape in shapes if len(shape) >= 2][-2:]
    smallest = min((size for shape in matrices for size in shape[-2:]), default=0)
    return "thin products" if smallest <= 2 * rank else "full products"


def microseconds(measurement: Measurement, contestant: Contestant, repeats: int, rank: int) -> dict[str, float]:
    """Kind of operation -> microseconds of a pass."""
    measurement.seconds(contestant)  # the first pass is slower
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        for _ in range(repeats):
            measurement.seconds(contestant)
    found: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages(group_by_input_shape=True):
        kind = kind_of(event.key, event.input_shapes, rank) if event.key.startswith("aten::") else "Python and autograd"
        found[kind] += event.self_cpu_time_total / repeats
    return found


def measure(rank: int, repeats: int, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method -> its time over the frozen layers', and the shares of what it adds that cost most."""
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for kind in kinds():
        measurement = Measurement(kind, rank, methods, torch.device("cpu"))
        for contestant in measurement.contestants:
            library, method = contestant.name
            if contestant.name == BASE or library == "dreamtune":
                for name, value in microseconds(measurement, contestant, repeats, rank).items():
                    spent[method][name] += kind.count * value
    base = spent.pop(BASE[1])
    found = {}
    for method, own in spent.items():
        added = {name: value - base.get(name, 0.0) for name, value in own.items()}
        total = sum(added.values())
        first = sorted(added.items(), key=lambda item: -item[1])[:SHOWN]
        found[method] = {
            "ratio": round(sum(own.values()) / sum(base.values()), 3),
            "costs": [{"operation": name, "share": round(value / total, 3)} for name, value in first],
        }
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "costs.json", metavar="FILE.json")
    options = parse(parser, repeats=5)
    torch.set_num_threads(1)
    methods = measure(options.rank, options.repeats, options.methods)
    write_results(options.out, {"about": machine(), "rank": options.rank, "methods": methods})
    for method, row in methods.items():
        told = ", ".join(f"{cost['operation']} {cost['share']:.0%}" for cost in row["costs"])
        print(f"{method:<12} {row['ratio']:.2f} x the frozen layers; of what it adds: {told}")


if __name__ == "__main__":
    main()
