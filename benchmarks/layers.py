"""python -m benchmarks.layers [--out FILE.json] [--rank R] [--repeats N] [--methods NAME...].

Time and memory of every method on the attention layers of Stable Diffusion 1.5 at 512 pixels, beside PEFT and LyCORIS.
A row's `ratio` is the time of all 128 layers forward and backward over that of the frozen layers, with gradients to
the input in both; `saved_mb` are the MB (10⁶ bytes) that all of them keep for the backward pass.

One layer of each distinct kind is run, with random weights, and counts as often as the UNet has it. All contestants
take turns in one process, one thread; times are medians of the CPU time, so that other work on the machine matters
little. On CUDA times come from events, and `peak_mb` is the memory allocated at most beyond the layer and its inputs,
for the largest kind. LoRA-Dash is measured after its launch. The singular vectors that some methods need are computed
at the first run (minutes) and kept in dreamtune's cache.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import nn

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.speed import kept_for_backward
from dreamtune.adapters import METHODS, attach


@dataclass(frozen=True)
class Kind:
    """Layers of one size that see the same number of tokens."""

    tokens: int
    out_features: int
    in_features: int
    bias: bool
    count: int


def kinds() -> list[Kind]:
    """SD 1.5's: 16 blocks of 4 + 4 attention layers; the prompt has 77 tokens of 768 numbers."""
    levels = ((4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1))  # tokens, width, blocks
    return [
        kind
        for tokens, width, blocks in levels
        for kind in (
            Kind(tokens, width, width, False, 4 * blocks),  # q, k, v of self-attention, q of cross-attention
            Kind(tokens, width, width, True, 2 * blocks),  # the output of both
            Kind(77, width, 768, False, 2 * blocks),  # k and v of cross-attention
        )
    ]


@dataclass
class Contestant:
    """A layer with an adapter of some library, and what is trained."""

    name: tuple[str, str]
    """Library and method."""
    layer: nn.Module
    trained: list[nn.Parameter]


@dataclass
class Row:
    """What one contestant needs on all layers."""

    library: str
    method: str
    ratio: float
    saved_mb: float
    peak_mb: float | None = None


BASE = ("frozen", "base")


def contestants(layer: nn.Linear, rank: int, methods: Sequence[str]) -> Iterator[Contestant]:
    """The frozen layer and copies of it, with every method that is in `methods`."""
    yield Contestant(BASE, layer, [])
    for method in METHODS:
        if method in methods:
            holder = nn.ModuleDict({"layer": copy.deepcopy(layer)})
            attached = attach(holder, METHODS[method].config_class(rank=rank, alpha=rank), "layer").train()
            attached.on_step(1000)
            yield Contestant(("dreamtune", method), holder["layer"], list(attached.parameters()))
    targets = {"r": rank, "target_modules": ["layer"]}
    configs = {
        "lora": LoraConfig(lora_alpha=rank, **targets),
        "dora": LoraConfig(lora_alpha=rank, use_dora=True, **targets),
        "loha": LoHaConfig(alpha=rank, **targets),
        "lokr": LoKrConfig(alpha=rank, **targets),
    }
    for method, config in configs.items():
        if method in methods:
            holder = inject_adapter_in_model(config, nn.ModuleDict({"layer": copy.deepcopy(layer)}))
            trained = [parameter for parameter in holder.parameters() if parameter.requires_grad]
            yield Contestant(("peft", method), holder.get_submodule("layer"), trained)
    yield from _lycoris(layer, rank, methods)


def _lycoris(layer: nn.Linear, rank: int, methods: Sequence[str]) -> Iterator[Contestant]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lycoris.modules.locon import LoConModule
        from lycoris.modules.loha import LohaModule
        from lycoris.modules.lokr import LokrModule
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)  # it writes to stdout
    modules = {"lora": (LoConModule, False), "dora": (LoConModule, True), "loha": (LohaModule, False)}
    modules["lokr"] = (LokrModule, False)
    for method, (module, decompose) in modules.items():
        for bypass in (False, True) if not decompose else (False,):  # its bypass leaves the decomposition out
            if method in methods:
                twin = copy.deepcopy(layer)
                adapter = module(
                    "layer", twin, lora_dim=rank, alpha=rank, weight_decompose=decompose, bypass_mode=bypass
                ).to(layer.weight.device)
                adapter.apply_to()
                yield Contestant(("lycoris-bypass" if bypass else "lycoris", method), twin, list(adapter.parameters()))


class Measurement:
    """The layers of one kind, and how long each contestant takes for a forward and a backward pass."""

    def __init__(self, kind: Kind, rank: int, methods: Sequence[str], device: torch.device) -> None:
        """Seeded, so that the singular vectors are those of the last run."""
        torch.manual_seed(0)
        layer = nn.Linear(kind.in_features, kind.out_features, bias=kind.bias).requires_grad_(False).to(device)
        self.x = torch.randn(1, kind.tokens, kind.in_features, device=device, requires_grad=True)
        self.gradient = torch.randn(1, kind.tokens, kind.out_features, device=device)
        self.contestants = list(contestants(layer, rank, methods))

    def seconds(self, contestant: Contestant) -> float:
        """One forward and backward pass."""
        wrt = [self.x, *contestant.trained]
        elapsed = timer(self.x.device)
        torch.autograd.grad(contestant.layer(self.x), wrt, self.gradient, allow_unused=True)
        return elapsed()

    def saved(self, contestant: Contestant) -> int:
        """Bytes kept for the backward pass; the input, which other layers keep too, and parameters do not count."""
        weights = (*contestant.layer.parameters(), *contestant.layer.buffers(), *contestant.trained)
        return kept_for_backward(lambda: contestant.layer(self.x), (self.x, *weights))

    def peak(self, contestant: Contestant) -> int | None:
        """Bytes allocated at most during a pass, beyond those before it; None on a CPU."""
        if self.x.device.type != "cuda":
            return None
        before = torch.cuda.memory_allocated(self.x.device)
        torch.cuda.reset_peak_memory_stats(self.x.device)
        self.seconds(contestant)
        return torch.cuda.max_memory_allocated(self.x.device) - before


def timer(device: torch.device) -> Callable[[], float]:
    """Begin to measure; calling the result gives the seconds since: of the CPU, or on the GPU."""
    if device.type != "cuda":
        began = time.process_time()
        return lambda: time.process_time() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()

    def elapsed() -> float:
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return elapsed


def measure(rank: int, repeats: int, methods: Sequence[str], device: torch.device) -> list[Row]:
    """A row for every contestant but the base."""
    seconds, saved = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], int](int)
    peaks = defaultdict[tuple[str, str], list[int]](list)
    for kind in kinds():
        measurement = Measurement(kind, rank, methods, device)
        field = measurement.contestants
        for contestant in field:  # the first pass is slower
            measurement.seconds(contestant)
        times: dict[int, list[float]] = {index: [] for index in range(len(field))}
        for repeat in range(repeats):
            for turn in range(len(field)):
                index = (turn + repeat) % len(field)  # nobody always follows the same neighbour's caches
                times[index].append(measurement.seconds(field[index]))
        for index, contestant in enumerate(field):
            name = contestant.name
            seconds[name] += kind.count * statistics.median(times[index])
            saved[name] += kind.count * measurement.saved(contestant)
            if (peak := measurement.peak(contestant)) is not None:
                peaks[name].append(peak)
    base = seconds.pop(BASE)
    return [
        Row(
            *name,
            round(own / base, 3),
            round(saved[name] / 1e6, 1),
            round(max(peaks[name]) / 1e6, 1) if peaks else None,
        )
        for name, own in seconds.items()
    ]


def parse(parser: argparse.ArgumentParser, repeats: int) -> argparse.Namespace:
    """What was given on the command line, rank, repeats and methods besides; repeats: of these the default."""
    parser.add_argument("--rank", type=int, default=8, metavar="R", help="rank of all adapters (default 8)")
    parser.add_argument("--repeats", type=int, default=repeats, metavar="N", help=f"passes of each (default {repeats})")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    options = parser.parse_args()
    if options.repeats < 1 or not 1 <= options.rank <= 320:
        parser.error("--repeats must be at least 1 and --rank between 1 and 320")
    return options


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "layers.json", metavar="FILE.json")
    options = parse(parser, repeats=9)
    device = torch.device(pick_device())
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows = measure(options.rank, options.repeats, options.methods, device)
    plain = [{name: value for name, value in asdict(row).items() if value is not None} for row in rows]
    write_results(options.out, {"about": machine(device.type), "rank": options.rank, "rows": plain})
    print(f"{'':<16}{'':<12}{'÷ base':>8}{'saved MB':>10}{'peak MB':>9}")
    for row in rows:
        peak = "" if row.peak_mb is None else f"{row.peak_mb:.1f}"
        print("{library:<16}{method:<12}{ratio:>8.3f}{saved_mb:>10.1f}".format(**asdict(row)) + f"{peak:>9}")


if __name__ == "__main__":
    main()
