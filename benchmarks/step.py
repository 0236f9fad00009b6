"""python -m benchmarks.step [--out FILE.json] [--repeats N] [--size PIXELS].

Time and memory of one optimizer step of DreamBooth on a UNet of Stable Diffusion 1.5's size (random weights, fp32,
batch 1, LoRA of rank 8 on the attention layers): dreamtune's own loop beside the same step written plainly with PEFT,
diffusers' `unet.add_adapter` and torch's AdamW. Times come from one process in which both take turns and share the
frozen weights; the ratio of time is that of the medians of CPU time, in which other work on the machine matters little.
Memory is the peak resident set of a process of its own for each, after the model was made.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig

from benchmarks.machine import RESULTS
from benchmarks.speed import SD15, twin, write_report
from dreamtune.adapters import attach, select_targets
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.data.encode import Example
from dreamtune.models.conditioning import Conditioning
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.distributed import accelerated
from dreamtune.training.objective import Objective
from dreamtune.training.trainer import RunFiles, Trainer

RANK, LR, CLIP = 8, 1e-4, 1.0
NAMES = ("dreamtune", "peft")
CONFIG: dict[str, Any] = SD15
Step = Callable[[], float]
"""Takes one optimizer step and returns its loss."""


@dataclass
class Row:
    """What one contestant needs for a step."""

    name: str
    cpu_seconds: float
    """Median over the repeats."""
    wall_seconds: float
    """Median over the repeats."""
    peak_mib: float
    """Highest resident set while steps are taken, in a process of its own; weights and Python are in it."""
    last_loss: float


def make_unet() -> UNet2DConditionModel:
    """SD 1.5's UNet with random weights, frozen."""
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG).requires_grad_(False)


def scheduler() -> DDPMScheduler:
    """SD 1.5's noise."""
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def picture(size: int) -> Example:
    """Noise in place of a picture's latents."""
    return Example(torch.randn(4, size // 8, size // 8, generator=torch.Generator().manual_seed(1)), (0,))


def prompt() -> Conditioning:
    """Noise in place of a prompt's embedding."""
    return Conditioning(torch.randn(77, 768, generator=torch.Generator().manual_seed(2)))


@contextmanager
def ours(unet: UNet2DConditionModel, size: int) -> Iterator[Step]:
    """Our trainer, with the loop's every cost but callbacks."""
    config = TrainConfig(images=Path("none"), class_word="dog", prior=False, lr=LR, max_grad_norm=CLIP, device="cpu")
    attached = attach(unet, LoRAConfig(rank=RANK, alpha=RANK)).train()
    data = TrainingData((picture(size),), (), (prompt(),), ("a sks dog",))
    objective = Objective.of(scheduler().alphas_cumprod, "epsilon", config)
    with accelerated(config) as accelerator:
        trainer = Trainer(accelerator, unet, attached, data, objective, config, RunFiles(Path("none"), {}))
        position = iter(range(config.steps))
        yield lambda: trainer.step(next(position), None).loss


@contextmanager
def theirs(unet: UNet2DConditionModel, size: int) -> Iterator[Step]:
    """The same written as an example script would."""
    targets = select_targets(unet, "attn")
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    noise_scheduler, latents = scheduler(), picture(size).latent[None]
    embedding = prompt().embedding[None]

    def step() -> float:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (1,))
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)  # pyright: ignore[reportArgumentType]
        prediction = unet(noisy, timesteps, embedding, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    yield step


CONTESTANTS: dict[str, Callable[[UNet2DConditionModel, int], Any]] = {"dreamtune": ours, "peft": theirs}


def measure_time(repeats: int, size: int) -> dict[str, tuple[list[float], list[float], float]]:
    """CPU seconds and wall seconds of each one's steps, and its last loss."""
    unet = make_unet()
    cpu: dict[str, list[float]] = {name: [] for name in NAMES}
    wall: dict[str, list[float]] = {name: [] for name in NAMES}
    loss: dict[str, float] = {}
    with ours(twin(unet), size) as first, theirs(unet, size) as second:
        steps: dict[str, Step] = dict(zip(NAMES, (first, second), strict=True))
        for step in steps.values():  # the first step is slower
            step()
        for repeat in range(repeats):
            for name in NAMES if repeat % 2 else reversed(NAMES):
                began, began_cpu = time.perf_counter(), time.process_time()
                loss[name] = steps[name]()
                cpu[name].append(time.process_time() - began_cpu)
                wall[name].append(time.perf_counter() - began)
    return {name: (cpu[name], wall[name], loss[name]) for name in NAMES}


def measure_memory(name: str, size: int) -> float:
    """Peak resident MiB of three steps, for the contestant of this process alone."""
    unet = make_unet()
    with CONTESTANTS[name](unet, size) as step:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        for _ in range(3):
            step()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_own_process(name: str, size: int) -> float:
    """:func:`measure_memory` in a new process."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory-of", name, "--size", str(size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "step.json", metavar="FILE.json")
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="steps of each (default 9)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of the picture (default 256)")
    parser.add_argument("--memory-of", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1 or options.size < 64 or options.size % 64:
        parser.error("--repeats must be at least 1 and --size a multiple of 64")
    torch.set_num_threads(1)
    if options.memory_of:
        print(measure_memory(options.memory_of, options.size))
        return
    peaks = {name: in_own_process(name, options.size) for name in NAMES}
    rows = [
        Row(name, statistics.median(cpu), statistics.median(wall), peaks[name], loss)
        for name, (cpu, wall, loss) in measure_time(options.repeats, options.size).items()
    ]
    print(f"{'':<12}{'CPU s/step':>12}{'wall s/step':>13}{'peak MiB':>10}")
    for row in rows:
        print(f"{row.name:<12}{row.cpu_seconds:>12.2f}{row.wall_seconds:>13.2f}{row.peak_mib:>10.0f}")
    ours_row, theirs_row = rows
    ratios = {
        "time": ours_row.cpu_seconds / theirs_row.cpu_seconds,
        "wall_time": ours_row.wall_seconds / theirs_row.wall_seconds,
        "memory": ours_row.peak_mib / theirs_row.peak_mib,
    }
    print("dreamtune / PEFT: " + ", ".join(f"{name} {value:.3f}" for name, value in ratios.items()))
    facts = {"size": options.size, "rank": RANK, "repeats": options.repeats, "ratios": ratios}
    write_report(options.out, torch.device("cpu"), facts, rows)


if __name__ == "__main__":
    main()
