"""Trainings of a tiny UNet on random latents, for the tests that look at single steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.adapters import AttachedAdapter, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.data.encode import Example
from dreamtune.models.conditioning import Conditioning
from dreamtune.training.config import TrainConfig
from dreamtune.training.data import TrainingData
from dreamtune.training.loop import fit
from dreamtune.training.objective import Objective
from dreamtune.training.trainer import RunFiles, StepRecord

SIZE, WIDTH = 8, 16
SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 12,
}


def make_unet(**options: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=SIZE,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    ).requires_grad_(False)


def make_examples(
    *sizes: tuple[int, int], prompt: int = 0, seed: int = 0, time_ids: bool = False
) -> tuple[Example, ...]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(6).float() if time_ids else None
    return tuple(Example(torch.randn(4, *size, generator=generator), (prompt,), None, ids) for size in sizes)


def make_prompts(count: int, pooled: int | None = None) -> tuple[Conditioning, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        Conditioning(
            torch.randn(5, WIDTH, generator=generator), torch.randn(pooled, generator=generator) if pooled else None
        )
        for _ in range(count)
    )


def make_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {"images": Path("x"), "class_word": "dog", "steps": 3, "batch_size": 2, "device": "cpu"}
    values |= {"lr": 1e-2, "checkpoint_every": 0}
    return TrainConfig(**(values | changes))


def make_objective(config: TrainConfig) -> Objective:
    return Objective.of(torch.linspace(0.999, 0.005, 100), "epsilon", config)


SQUARES = make_examples(*[(SIZE, SIZE)] * 3)
CLASS = make_examples(*[(SIZE, SIZE)] * 4, prompt=1, seed=5)
PLAIN = TrainingData(SQUARES, (), make_prompts(1), ("a sks dog",))
WITH_PRIOR = TrainingData(SQUARES, CLASS, make_prompts(2), ("a sks dog", "a dog"))


class Run:
    """A training on a fresh UNet and what it left."""

    def __init__(self, folder: Path, data: TrainingData, config: TrainConfig, unet: Any = None, **options: Any) -> None:
        self.unet = unet or make_unet()
        self.attached: AttachedAdapter = attach(
            self.unet, LoRAConfig(rank=2, alpha=2.0, dropout=options.pop("dropout", 0.0)), seed=7
        )
        self.records: list[StepRecord] = []
        look: Callable[[Run], object] = options.pop("look", lambda run: None)
        self.files = RunFiles(
            folder, {"pictures": "x"}, lambda path: save_file(self.weights, path / "weights.safetensors")
        )

        def listen(record: StepRecord) -> None:
            self.records.append(record)
            look(self)

        fit(self.unet, self.attached, data, make_objective(config), config, self.files, on_step=listen, **options)

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.records]

    @property
    def weights(self) -> dict[str, Tensor]:
        return dict(self.attached.state_dict())


def same(first: Run, second: Run) -> bool:
    return all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


def forward_shapes(unet: UNet2DConditionModel, grad: bool | None = None) -> list[tuple[int, ...]]:
    """Filled with the shape of every batch that goes through `unet` from now on."""
    shapes: list[tuple[int, ...]] = []

    def watch(module: Any, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        if grad is None or torch.is_grad_enabled() == grad:
            shapes.append(tuple(inputs[0].shape))

    unet.register_forward_pre_hook(watch, with_kwargs=True)
    return shapes
