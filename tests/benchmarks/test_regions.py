"""What regions cost is measured, and is no more than it may be."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.regions import LIMIT, measure, pocket
from dreamtune.models import load_base


def test_both_are_measured_in_turn(tiny: Path) -> None:
    unet: Any = load_base(tiny, "cpu").unet
    made, seen = torch.Generator().manual_seed(0), list[bool]()
    x, context = torch.randn(2, 4, 8, 8, generator=made), torch.randn(2, 5, 32, generator=made)

    @torch.no_grad()
    def draw() -> None:
        unet(x, 10, context)
        attention = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
        seen.append("generation.regions" in type(attention.processor).__module__)

    found = measure(unet, draw, [context[0], context[1]], repeats=2)
    assert seen == [False, True] * 3
    assert found["ratio"] > 0 and found["ratios"][0] <= found["ratio"] <= found["ratios"][1]
    assert found["processor_ratio"] > 0


@pytest.mark.slow
@pytest.mark.alone
def test_two_regions_cost_no_more_than_they_may_on_pocket() -> None:
    assert measure(*pocket(10), repeats=3)["processor_ratio"] <= LIMIT
