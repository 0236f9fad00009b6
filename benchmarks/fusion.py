"""python -m benchmarks.fusion [--json] [--rank R] [--adapters N] [--methods NAME...].

Seconds that `dreamtune fuse` takes for LoRA adapters on the 128 attention layers of Stable Diffusion 1.5, reading and
writing files included. The adapters are random: no base is needed. Results without small factors (ties) are cut to
rank 64, by singular value decompositions of whole layers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from benchmarks.layers import kinds
from dreamtune.adapters import AdapterFile
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.fusion import FUSIONS
from dreamtune.pipelines.fuse import FuseConfig, fuse


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
        trigger=f"t{seed}",
        class_word="dog",
        training={},
        tensors=tensors,
    ).save(path)
    return str(path)


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
            config = FuseConfig(adapters=tuple(files), method=method)
            seconds[method] = round(fuse(config, folder / f"{method}.safetensors", lambda _: None).seconds, 2)
    if arguments.json:
        print(json.dumps({"rank": arguments.rank, "threads": torch.get_num_threads(), "seconds": seconds}))
        return
    for method, taken in seconds.items():
        print(f"{method:10} {taken:8.2f} s")


if __name__ == "__main__":
    main()
