"""python -m benchmarks.analyzer [--out FILE.json] [--methods NAME...] [--threads N] [--layers N].

Time and memory of the TSD analyzer on the 128 attention layers of Stable Diffusion 1.5 with random weights: two
adapters of rank 8 with an empty store of singular vectors, then one, two and four with a full one, from which follows
what an adapter costs and what a pair. Layers are made one at a time, so that the memory is that of the analysis; the
store is a temporary folder of about 1.5 GB. Other work on the machine changes the wall time, but hardly the CPU time.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.layers import kinds
from benchmarks.machine import RESULTS, machine, write_results
from dreamtune.adapters import METHODS, Delta
from dreamtune.adapters.svd import SvdStore
from dreamtune.analysis import study, summarize

RANK = 8


def weights(limit: int | None) -> Iterator[tuple[str, Tensor]]:
    """Name and random weight (out, in) of each layer, all different."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(kind.out_features, kind.in_features) for kind in kinds() for _ in range(kind.count)]
    for number, shape in enumerate(shapes[:limit]):
        yield f"down_blocks.{number}", torch.randn(shape, generator=generator) / shape[1] ** 0.5


def change(method: str, weight: Tensor, seed: int) -> Delta:
    """A random change by that method."""
    generator = torch.Generator().manual_seed(seed)
    adapter = METHODS[method](METHODS[method].config_class(rank=RANK, alpha=RANK), *weight.shape)
    adapter.initialize(weight, generator)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        return Delta.of_adapter(adapter.eval(), weight)


def measure(store: SvdStore, method: str, adapters: int, limit: int | None) -> dict[str, float]:
    """CPU seconds of the decompositions of weights, of making the changes, and of the rest; `wall` of all."""
    spent = dict.fromkeys(("svd", "changes", "study"), 0.0)
    layers, start = [], time.perf_counter()
    for number, (name, weight) in enumerate(weights(limit)):
        began = time.process_time()
        svd = store.full(weight)
        spent["svd"] += time.process_time() - began
        began = time.process_time()
        changes = {n: change(method, weight, 1000 * number + n) for n in range(adapters)}
        spent["changes"] += time.process_time() - began
        began = time.process_time()
        layers.append(study(name, weight, svd, changes))
        spent["study"] += time.process_time() - began
    if adapters > 1:
        summarize(layers, 0, 1)
    return {"wall": time.perf_counter() - start, "cpu": sum(spent.values()), **spent}


def cost(rows: Sequence[dict[str, Any]], method: str) -> dict[str, float]:
    """CPU seconds for an adapter and for a pair, from one and two of them; what four would cost so, and do."""
    one, two, four = (
        next(r["cpu"] - r["svd"] for r in rows if (r["method"], r["adapters"], r["cached"]) == (method, count, True))
        for count in (1, 2, 4)
    )
    pair = two - 2 * one
    return {"adapter": one, "pair": pair, "four_expected": 4 * one + 6 * pair, "four": four}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "analyzer.json", metavar="FILE.json")
    parser.add_argument("--methods", nargs="+", default=["lora"], choices=list(METHODS), help="(lora)")
    parser.add_argument("--threads", type=int, default=2, help="of the arithmetic (2)")
    parser.add_argument("--layers", type=int, help="only so many of the layers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = SvdStore(Path(folder))
        for method in options.methods:
            for adapters in (1, 2, 4) if rows else (2, 1, 2, 4):
                cached = bool(rows)
                figures = measure(store, method, adapters, options.layers)
                rows.append({"method": method, "adapters": adapters, "cached": cached, **figures})
    costs = {method: cost(rows, method) for method in options.methods}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = {"rank": RANK, "threads": options.threads, "peak_mb": round(peak), "rows": rows, "costs": costs}
    write_results(options.out, {"about": machine()} | report)
    print(
        f"{'method':10} {'adapters':>8} {'cached':>6} {'wall s':>8} {'cpu s':>8} {'svd':>8} {'changes':>8} {'study':>8}"
    )
    for row in rows:
        times = " ".join(f"{row[name]:8.1f}" for name in ("wall", "cpu", "svd", "changes", "study"))
        print(f"{row['method']:10} {row['adapters']:8} {row['cached']!s:>6} {times}")
    for method, found in costs.items():
        told = "; ".join(f"{name} {seconds:.1f} s" for name, seconds in found.items())
        print(f"{method:10} CPU with stored singular vectors: {told}")
    print(f"peak memory {peak:.0f} MiB, {options.threads} threads")


if __name__ == "__main__":
    main()
