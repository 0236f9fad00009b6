"""python -m benchmarks.fusion [--json] [--rank R] [--adapters N] [--methods NAME...].

Seconds that `dreamtune fuse` takes for LoRA adapters on the 128 attention layers of Stable Diffusion 1.5, reading and
writing files included, on the clock and of the processor. The adapters are random: no base is needed. Results without
small factors (ties) are cut to rank 64, by singular value decompositions of whole layers. Of gradient and
custom-diffusion it is the time without the drawing, on random second moments.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.layers import kinds
from dreamtune.adapters import AdapterFile
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.fusion import (
    FUSIONS,
    FusionOptions,
    Inputs,
    WeightedAdapter,
    as_file,
    common_layers,
    fuse_layers,
)
from dreamtune.names import RECORDED
from dreamtune.pipelines.fuse.run import FuseConfig, fuse


def make(path: Path, rank: int, seed: int) -> str:
    """Write a random adapter and return its path."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(kind.out_features, kind.in_features) for kind in kinds() for _ in range(kind.count)]
    layers = {f"layer.{number}": LayerRecord(shape) for number, shape in enumerate(shapes)}
    tensors = {}
    for name, record in layers.items():
        tensors[f"{name}.up"] = 0.02 * torch.randn(record.shape[0], rank, generator=generator)
        tensors[f"{name}.down"] = 0.02 * torch.randn(rank, record.shape[1], generator=generator)
    AdapterFile(
        method="lora",
        config=LoRAConfig(rank=rank, alpha=float(rank)),
        layers=layers,
        base="sd1",
        token=f"t{seed}",
        class_word="dog",
        training={},
        tensors=tensors,
    ).save(path)
    return str(path)


def fuse_moments(files: Sequence[str], method: str, out: Path) -> None:
    """Fuse by a method that asks for inputs, and write the result."""
    ingredients = [WeightedAdapter(name, AdapterFile.load(name)) for name in files]
    records = common_layers(ingredients)
    moments = {}
    for width in {record.shape[1] for record in records.values()}:
        x = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(width))
        moments[width] = x.T @ x / len(x)
    own = {path: moments[record.shape[1]] for path, record in records.items()}
    layers = fuse_layers(ingredients, FusionOptions(method), inputs=Inputs([own] * len(ingredients), own))
    about = {"base": "sd1", "token": "", "class_word": "", "training": {}}
    as_file(layers, records, None, **about).file.save(out)


def main() -> None:
    """Fuse by each method and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(FUSIONS))
    arguments = parser.parse_args()
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [make(folder / f"{seed}.safetensors", arguments.rank, seed) for seed in range(arguments.adapters)]
        for method in arguments.methods:
            out, began, worked = folder / f"{method}.safetensors", time.perf_counter(), time.process_time()
            if method in RECORDED:
                fuse_moments(files, method, out)
            else:
                fuse(FuseConfig(adapters=tuple(files), method=method), out, lambda _: None)
            took = time.perf_counter() - began, time.process_time() - worked
            seconds[method] = {"clock": round(took[0], 2), "processor": round(took[1], 2)}
    if arguments.json:
        print(json.dumps({"rank": arguments.rank, "threads": torch.get_num_threads(), "seconds": seconds}))
        return
    print(f"{'':18} {'clock':>8}   {'processor':>9}")
    for method, taken in seconds.items():
        print(f"{method:18} {taken['clock']:8.2f} s {taken['processor']:9.2f} s")


if __name__ == "__main__":
    main()
