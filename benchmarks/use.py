"""python -m benchmarks.use [--repeats N] [--steps N] [--out FILE.json].

What adapters cost when they are used, on the embedded base: drawing with none, one, two and four, live and merged;
loading one, and switching from one to another; and how long the command line takes to start. Medians, in one process,
in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.models import Base, load_base
from dreamtune.models.families import USUAL

RANK, PICTURES, GUIDANCE = 8, 4, USUAL["pocket"].guidance
NUMBERS = (0, 1, 2, 4)
COMMANDS = (("--version",), ("--help",), ("train", "--help"))


def make(folder: Path, base: Base, count: int) -> list[Path]:
    """Files of `count` LoRA adapters with random factors."""
    paths = []
    for seed in range(count):
        path = folder / f"{seed}.safetensors"
        with attach(base.unet, LoRAConfig(rank=RANK), seed=seed) as attached:
            generator = torch.Generator().manual_seed(seed)
            for adapter in attached.adapters.values():
                up = adapter.get_parameter("up")
                up.data.copy_(0.01 * torch.randn(up.shape, generator=generator))
            file = AdapterFile.from_attached(attached, base=base.id, token=f"t{seed}", class_word="cat", training={})
        file.save(path)
        paths.append(path)
    return paths


def in_turns(work: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each, measured in turns; the first time is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, once in work.items():
            taken = once()
            if repeat:
                seconds[name].append(taken)
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def drawing(base: Base, files: list[Path], steps: int) -> dict[str, Callable[[], float]]:
    """Name -> draws PICTURES pictures with that many adapters and returns the seconds."""

    def once(count: int, merged: bool) -> float:
        attached = [AdapterFile.load(path).attach(base.unet) for path in files[:count]]
        try:
            if merged:
                for one in attached:
                    one.merge()
            began = time.perf_counter()
            base.draw(["a cat"] * PICTURES, range(PICTURES), size=base.resolution, steps=steps, guidance=GUIDANCE).cpu()
            return time.perf_counter() - began
        finally:
            for one in attached:
                one.detach()

    names = [(0, False), *((count, merged) for count in NUMBERS[1:] for merged in (False, True))]
    return {
        (f"{count} {'merged' if merged else 'live'}" if count else "none"): lambda count=count, merged=merged: once(
            count, merged
        )
        for count, merged in names
    }


def handling(base: Base, files: list[Path]) -> dict[str, Callable[[], float]]:
    """Reading and putting on an adapter, and putting on another in its place when both have been read."""

    def load() -> float:
        began = time.perf_counter()
        attached = AdapterFile.load(files[0]).attach(base.unet)
        taken = time.perf_counter() - began
        attached.detach()
        return taken

    read = [AdapterFile.load(path) for path in files[:2]]

    def switch() -> float:
        attached = read[0].attach(base.unet)
        began = time.perf_counter()
        attached.detach()
        attached = read[1].attach(base.unet)
        taken = time.perf_counter() - began
        attached.detach()
        return taken

    return {"load": load, "switch": switch}


def starting() -> dict[str, Callable[[], float]]:
    """Each command in a process of its own; beside them an empty Python, which is part of each."""

    def once(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - began

    commands = {"dreamtune " + " ".join(it): ("-m", "dreamtune.pipelines.cli", *it) for it in COMMANDS}
    return {name: lambda it=it: once(*it) for name, it in ({"python": ("-c", "pass")} | commands).items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="of each (5)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="of drawing (10)")
    parser.add_argument("--out", type=Path, default=RESULTS / "use.json", metavar="FILE.json")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.steps < 1:
        parser.error("--repeats and --steps must be at least 1")
    device = pick_device()
    if device == "cpu":
        torch.set_num_threads(1)
    base = load_base("pocket", device)
    with tempfile.TemporaryDirectory(prefix="dreamtune-") as folder:
        files = make(Path(folder), base, max(NUMBERS))
        report: dict[str, Any] = {
            "about": machine(device),
            "rank": RANK,
            "pictures": PICTURES,
            "steps": options.steps,
            "repeats": options.repeats,
            "drawing": in_turns(drawing(base, files, options.steps), options.repeats),
            "handling": in_turns(handling(base, files), options.repeats),
            "starting": in_turns(starting(), options.repeats),
        }
    for part in ("drawing", "handling", "starting"):
        for name, seconds in report[part].items():
            print(f"{part:<10} {name:<22} {seconds:8.3f} s")
    write_results(options.out, report)


if __name__ == "__main__":
    main()
