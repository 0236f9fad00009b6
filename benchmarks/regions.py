"""`python -m benchmarks.regions [--unet pocket|sd15] [--repeats N] [--steps N] [--out FILE.json]`.

The price of regions: wall time of generation with two adapters in two regions that fill the picture, beside plain
generation with one adapter merged into the weights, on the same UNet, noise, size and steps; with guidance, so every
step is a batch of two. pocket is drawn from prompt to picture, sd15 is a random UNet of SD 1.5's size from latents to
latents (512 pixels). The two alternate, and the ratio is the median of those within each repeat, so that a machine
that slows down slows both. The ratio of processor time is told beside it: on a machine that is shared with others it
is the surer one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from benchmarks.speed import UNETS
from dreamtune.adapters import Delta, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.generation.masks import box_mask
from dreamtune.generation.regions import Region, routed
from dreamtune.models import load_base
from dreamtune.models.families import USUAL

RANK = 8
HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
SOFTNESS = 0.05
LIMIT = 1.4
"""What regions may cost: the wall time of a plain generation, times this."""


def deltas(unet: nn.Module, seed: int) -> dict[str, Delta]:
    """Changes of a LoRA with random factors on all attention layers."""
    with attach(unet, LoRAConfig(rank=RANK), seed=seed) as attached:
        shapes = {path: adapter.shape for path, adapter in attached.adapters.items()}
    made = torch.Generator().manual_seed(seed)
    return {
        path: Delta(torch.randn(out, RANK, generator=made) * 1e-3, torch.randn(RANK, into, generator=made) * 1e-3)
        for path, (out, into) in shapes.items()
    }


def regions(unet: nn.Module, embeddings: list[Tensor]) -> AbstractContextManager[Any]:
    """Two halves, each with an adapter and a prompt."""
    made = [
        Region(box_mask(box, (256, 256), SOFTNESS), embedding, deltas(unet, index))
        for index, (box, embedding) in enumerate(zip(HALVES, embeddings, strict=True))
    ]
    return routed(unet, made, guided=True)


def pocket(steps: int) -> tuple[nn.Module, Callable[[], Any], list[Tensor]]:
    """The embedded base, a generation with it, and the embeddings of the regions' prompts."""
    base = load_base("pocket", "cpu")
    guidance = USUAL["pocket"].guidance
    embeddings = [it.embedding for it in base.condition(["a cat on the beach", "a mug on the beach"])]

    def draw() -> None:
        latents = base.draw(["on the beach"], [0], size=base.resolution, steps=steps, guidance=guidance)
        base.to_pictures(latents)

    return base.unet, draw, embeddings


def sd15(steps: int) -> tuple[nn.Module, Callable[[], Any], list[Tensor]]:
    """The same with a random UNet of SD 1.5's size."""
    device = torch.device(pick_device())
    with torch.device(device):
        unet: Any = UNet2DConditionModel(**UNETS["sd15"]).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    latents, prompts = torch.randn(1, 4, 64, 64, generator=random), torch.randn(4, 77, 768, generator=random)
    context, scheduler = prompts[:2].to(device), DDIMScheduler(clip_sample=False)

    @torch.no_grad()
    def draw() -> None:
        scheduler.set_timesteps(steps)
        x = latents.to(device)
        for t in scheduler.timesteps:
            unwanted, wanted = unet(torch.cat([x, x]), t, context).sample.chunk(2)
            x = scheduler.step(unwanted + 5 * (wanted - unwanted), int(t), x, return_dict=False)[0]
        x.cpu()

    return unet, draw, list(prompts[2:])


def measure(unet: nn.Module, draw: Callable[[], Any], embeddings: list[Tensor], repeats: int) -> dict[str, Any]:
    """Seconds of both, and the ratios."""

    def seconds() -> tuple[float, float]:
        began = time.perf_counter(), time.process_time()
        draw()
        return time.perf_counter() - began[0], time.process_time() - began[1]

    plain, routing = list[tuple[float, float]](), list[tuple[float, float]]()
    with attach(unet, LoRAConfig(rank=RANK)) as attached:
        attached.merge()
        for _ in range(repeats + 1):
            plain.append(seconds())
            with regions(unet, embeddings):
                routing.append(seconds())
    plain, routing = plain[1:], routing[1:]  # the first are warming up
    ratios = [[two[i] / one[i] for one, two in zip(plain, routing, strict=True)] for i in range(2)]
    return {
        "plain_seconds": round(statistics.median(wall for wall, _ in plain), 3),
        "regions_seconds": round(statistics.median(wall for wall, _ in routing), 3),
        "ratio": round(statistics.median(ratios[0]), 3),
        "ratios": [round(min(ratios[0]), 3), round(max(ratios[0]), 3)],
        "processor_ratio": round(statistics.median(ratios[1]), 3),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unet", choices=("pocket", "sd15"), help="one of them alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, help="20 with pocket, 2 with sd15 if not set")
    parser.add_argument("--out", type=Path, default=RESULTS / "regions.json", metavar="FILE.json")
    args = parser.parse_args()
    about = machine(pick_device())
    found: dict[str, Any] = {"about": about, "threads": torch.get_num_threads(), "limit": LIMIT}
    for name, make, steps in (("pocket", pocket, 20), ("sd15", sd15, 2)):
        if args.unet in (None, name):
            found[name] = {"steps": args.steps or steps} | measure(*make(args.steps or steps), args.repeats)
            print(name, found[name], flush=True)
    write_results(args.out, found)


if __name__ == "__main__":
    main()
