"""What a step costs: memory and precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamtune.errors import TrainingError
from tests.training.tiny_trainings import PLAIN, WITH_PRIOR, Run, make_config, make_unet, same


def test_gradient_checkpointing_changes_no_bit_and_is_off_afterwards(tmp_path: Path) -> None:
    plain = Run(tmp_path, WITH_PRIOR, make_config(), dropout=0.2)
    frugal = Run(tmp_path, WITH_PRIOR, make_config(gradient_checkpointing=True), dropout=0.2)
    assert frugal.losses == plain.losses
    assert same(frugal, plain)
    assert not frugal.unet.is_gradient_checkpointing


def test_gradient_checkpointing_keeps_less(tmp_path: Path) -> None:
    kept: dict[bool, int] = {}
    for frugal in (False, True):
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            Run(tmp_path, PLAIN, make_config(steps=1, gradient_checkpointing=frugal))
        kept[frugal] = total
    assert kept[True] < kept[False], kept


def test_bf16_follows_fp32(tmp_path: Path) -> None:
    full, half = (Run(tmp_path, WITH_PRIOR, make_config(precision=p)) for p in ("fp32", "bf16"))
    assert half.losses == pytest.approx(full.losses, rel=0.03)
    assert half.losses != full.losses
    assert all(tensor.dtype == torch.float32 for tensor in half.weights.values())


@pytest.mark.parametrize(
    ("device", "checkpointing", "first"),
    [("cpu", True, "lower batch_size"), ("cuda", True, "lower batch_size"), ("cuda", False, "set gradient_checkpoint")],
)
def test_memory_that_is_not_enough_is_told_with_the_remedy(
    device: str, checkpointing: bool, first: str, tmp_path: Path
) -> None:
    unet = make_unet()

    def demand(module: Any, inputs: Any) -> None:
        if device == "cpu":
            torch.empty(2**58)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    unet.mid_block.register_forward_pre_hook(demand)  # pyright: ignore[reportOptionalMemberAccess]
    with pytest.raises(TrainingError, match=f"out of device memory: {first}"):
        Run(tmp_path, PLAIN, make_config(gradient_checkpointing=checkpointing), unet)
    assert not unet.is_gradient_checkpointing
