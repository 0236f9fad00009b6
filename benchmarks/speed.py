"""python -m benchmarks.speed [--unet small|launch|sd15|sdxl] [--precision fp32|bf16] [--out FOLDER] [--repeats N].

Time and memory of one LoRA training step (forward and backward pass), dreamtune beside PEFT: the same rank, layers,
factors and inputs on one random UNet of the Stable Diffusion design. bf16 is that of the frozen weights and the
arithmetic, the factors stay fp32, as in a training. The steps of all contestants alternate, so that a machine that
slows down slows all of them.

Without --unet and --precision: on CUDA SD 1.5's size in fp32 and bf16 and SDXL's in bf16; on a CPU a small UNet in
fp32, and one with SDXL's number of layers, each tiny, in bf16, whose step takes as long as launching operations does.
"""

from __future__ import annotations

import argparse
import copy
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from benchmarks.machine import RESULTS, machine, pick_device, write_results
from dreamtune.adapters import attach, select_targets
from dreamtune.adapters.methods.lora import LoRAConfig

RANK, TARGETS = 8, "attn"
SMALL = {
    "sample_size": 32,
    "block_out_channels": (64, 128, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 128,
}
SD15 = {"sample_size": 64, "cross_attention_dim": 768}
"""The class's defaults are the rest of SD 1.5's configuration."""
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
LAUNCH = SDXL | {
    "sample_size": 16,
    "block_out_channels": (32, 64, 128),
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 64,
}
"""SDXL's layers, all of them, each tiny: a step takes as long as it takes to launch its operations."""
UNETS: dict[str, dict[str, Any]] = {"small": SMALL, "launch": LAUNCH, "sd15": SD15, "sdxl": SDXL}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
USUAL = {
    "cuda": (("sd15", "fp32"), ("sd15", "bf16"), ("sdxl", "bf16")),
    "cpu": (("small", "fp32"), ("launch", "bf16")),
}
"""What is measured on a device if nothing is asked for."""


@dataclass
class Row:
    """What one contestant needs for a step."""

    name: str
    seconds: float
    """Median over the repeats."""
    ratio: float
    """To the frozen base: median of the ratios within each repeat."""
    saved_bytes: int
    """Activations kept for the backward pass; parameters are not counted, storage that is shared is counted once."""
    parameters: int
    """Trainable numbers."""


@dataclass
class Contestant:
    """A model, and the parameters that it trains."""

    name: str
    model: nn.Module
    trained: list[nn.Parameter]


@dataclass
class Inputs:
    """One batch: subject and prior picture, noisy latents (2, 4, h, w), prompts (2, 77, dim)."""

    latents: Tensor
    timesteps: Tensor
    prompts: Tensor
    target: Tensor
    added: dict[str, Tensor] | None = None
    """What SDXL is told besides: pooled prompts (2, 1280) and sizes (2, 6)."""

    @classmethod
    def random(cls, unet: UNet2DConditionModel, device: torch.device) -> Inputs:
        """Noise in place of pictures. Latents ask for a gradient, so that the frozen base has a backward pass too."""
        size, width = unet.config["sample_size"], unet.config["cross_attention_dim"]
        added = None
        if unet.config["addition_embed_type"] is not None:
            sizes = torch.tensor([[8.0 * size] * 2 + [0.0] * 2 + [8.0 * size] * 2] * 2, device=device)
            added = {"text_embeds": torch.randn(2, 1280, device=device), "time_ids": sizes}
        return cls(
            torch.randn(2, 4, size, size, device=device, requires_grad=True),
            torch.tensor([300, 700], device=device),
            torch.randn(2, 77, width, device=device),
            torch.randn(2, 4, size, size, device=device),
            added,
        )


def predict(model: nn.Module, inputs: Inputs) -> Tensor:
    """The UNet's prediction, (2, 4, h, w), in the precision of its frozen weights."""
    precision = next(p.dtype for p in model.parameters() if not p.requires_grad)
    with torch.autocast(inputs.latents.device.type, precision, enabled=precision != torch.float32):
        return model(
            inputs.latents, inputs.timesteps, inputs.prompts, added_cond_kwargs=inputs.added, return_dict=False
        )[0].float()


def step(contestant: Contestant, inputs: Inputs) -> float:
    """Seconds of one forward and backward pass."""
    for tensor in (inputs.latents, *contestant.trained):
        tensor.grad = None
    wait(inputs.latents.device)
    began = time.perf_counter()
    nn.functional.mse_loss(predict(contestant.model, inputs), inputs.target).backward()
    wait(inputs.latents.device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def saved_bytes(contestant: Contestant, inputs: Inputs) -> int:
    """Bytes that the graph of one forward pass keeps."""
    model = contestant.model
    weights = (*model.parameters(), *model.buffers(), *contestant.trained)  # our adapters are not in the model's own
    return kept_for_backward(lambda: nn.functional.mse_loss(predict(model, inputs), inputs.target), weights)


def kept_for_backward(forward: Callable[[], Tensor], uncounted: Iterable[Tensor]) -> int:
    """Bytes that the graph of `forward` keeps; nothing is freed before backward, so this is the peak.

    Storage that is shared counts once, that of tensors in `uncounted` not at all.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in uncounted}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())


def contestants(unet: UNet2DConditionModel) -> list[Contestant]:
    """The frozen base, ours and PEFT's, on the same weights; the adapters hold the same factors in fp32."""
    paths = select_targets(unet, TARGETS)
    ours = twin(unet)
    attached = attach(ours, LoRAConfig(rank=RANK, alpha=RANK), TARGETS)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=paths)
    theirs = inject_adapter_in_model(config, twin(unet))
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    for path, adapter in attached.adapters.items():
        nn.init.normal_(adapter.get_parameter("up"), std=0.01)
        for name, their_name in (("down", "lora_A"), ("up", "lora_B")):
            factor = theirs.get_submodule(f"{path}.{their_name}.default").get_parameter("weight")
            factor.data.copy_(adapter.get_parameter(name))
    return [
        Contestant("frozen base", unet, []),
        Contestant("dreamtune", ours, list(attached.parameters())),
        Contestant(f"PEFT {version('peft')}", theirs, [p for p in theirs.parameters() if p.requires_grad]),
    ]


def twin(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Another model on the very same weights: SDXL's are gigabytes."""
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    return copy.deepcopy(unet, shared)


def measure(repeats: int, device: torch.device, unet_size: str, precision: str) -> tuple[list[Row], float]:
    """A row per contestant, and the largest difference between the adapters' outputs."""
    torch.manual_seed(0)
    with device:
        unet = UNet2DConditionModel(**UNETS[unet_size]).requires_grad_(False)
    nn.Module.to(unet, PRECISIONS[precision])  # diffusers' own warns
    inputs = Inputs.random(unet, device)
    base, *adapted = field = contestants(unet)
    with torch.no_grad():
        outputs = [predict(contestant.model, inputs) for contestant in adapted]
    difference = float((outputs[0] - outputs[1]).abs().max())
    saved = {contestant.name: saved_bytes(contestant, inputs) for contestant in field}
    for contestant in field * 2:  # the first steps are slower
        step(contestant, inputs)
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in field}
    for repeat in range(repeats):
        for index in range(len(field)):  # each goes first as often as the others
            contestant = field[(index + repeat) % len(field)]
            seconds[contestant.name].append(step(contestant, inputs))
    rows = [
        Row(
            name=contestant.name,
            seconds=statistics.median(seconds[contestant.name]),
            ratio=statistics.median(
                own / other for own, other in zip(seconds[contestant.name], seconds[base.name], strict=True)
            ),
            saved_bytes=saved[contestant.name],
            parameters=sum(parameter.numel() for parameter in contestant.trained),
        )
        for contestant in field
    ]
    return rows, difference


def write_report(path: Path, device: torch.device, facts: Mapping[str, Any], rows: Iterable[Any]) -> None:
    """Write the figures of `rows`, which are dataclasses, as JSON, with what they were measured on."""
    about = {"about": machine(device.type), "threads": torch.get_num_threads()}
    write_results(path, about | dict(facts) | {"rows": [asdict(row) for row in rows]})


def own_file(folder: Path, device: str, unet_size: str, precision: str) -> Path:
    """Where results go: those of different devices, sizes and precisions are kept beside each other."""
    short = "cpu" if device == "cpu" else re.sub(r"nvidia|geforce|\W", "", torch.cuda.get_device_name().lower())
    return folder / f"speed-{short}-{unet_size}-{precision}.json"


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="(benchmarks/results)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="steps of each (default 20)")
    parser.add_argument("--unet", choices=UNETS, help="its size")
    parser.add_argument("--precision", choices=PRECISIONS, help="fp32 if only --unet is given")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    device = torch.device(pick_device())
    asked = USUAL[device.type]
    if options.unet or options.precision:
        asked = ((options.unet or asked[0][0], options.precision or "fp32"),)
    for unet_size, precision in asked:
        run(options.out, options.repeats, device, unet_size, precision)


def run(folder: Path, repeats: int, device: torch.device, unet_size: str, precision: str) -> None:
    """Measure one size in one precision."""
    rows, difference = measure(repeats, device, unet_size, precision)
    print(f"{unet_size}, {precision}")
    print(f"{'':<14}{'ms/step':>10}{'÷ base':>9}{'saved MiB':>11}{'+ MiB':>8}{'parameters':>12}")
    for row in rows:
        extra = (row.saved_bytes - rows[0].saved_bytes) / 2**20
        print(
            f"{row.name:<14}{row.seconds * 1e3:>10.1f}{row.ratio:>9.3f}{row.saved_bytes / 2**20:>11.1f}"
            f"{extra:>8.1f}{row.parameters:>12,}"
        )
    print(f"largest difference between the two outputs: {difference:.1e}")
    facts = {
        "rank": RANK,
        "targets": TARGETS,
        "size": unet_size,
        "unet": UNETS[unet_size],
        "precision": precision,
        "repeats": repeats,
        "largest_difference": difference,
    }
    write_report(own_file(folder, device.type, unet_size, precision), device, facts, rows)


if __name__ == "__main__":
    main()
