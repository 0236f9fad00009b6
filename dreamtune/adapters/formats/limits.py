"""How other readers of a written file deviate from dreamtune."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..file import AdapterFile
from ..methods.decompose import Decomposable, row_norms
from ..parts import UNET, split_part

_IN_BLOCKS = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.")


def limits(file: AdapterFile, form: str, weights: Mapping[str, Tensor] | None = None) -> tuple[str, ...]:
    """Remarks on a file written in the format `form` ("lora", "peft" or "kohya"), one for each tool that differs.

    weights: as AdapterFile.weights gives them, to measure what depends on them.
    """
    return tuple(_of_kohya(file, weights) if form == "kohya" else _of_diffusers(file))


def _of_diffusers(file: AdapterFile) -> Iterator[str]:
    if file.method == "dora":
        yield "ComfyUI does not read DoRA under these names: for ComfyUI, use the format kohya"


def _of_kohya(file: AdapterFile, weights: Mapping[str, Tensor] | None) -> Iterator[str]:
    if file.method != "lora":
        kind = "DoRA's magnitudes" if file.method == "dora" else file.method
        yield f"sd-scripts' own LoRA and diffusers do not read {kind} from this format: use --rank to get plain LoRA"
    decomposed = {
        path: a for path, a in file.adapters().items() if isinstance(a, Decomposable) and a.magnitude is not None
    }
    if any(not adapter.by_input for adapter in decomposed.values()):
        far = ""
        if weights is not None:
            errors = [_comfy_error(a, weights[path]) for path, a in decomposed.items() if not a.by_input]
            far = f", by up to {max(errors):.1%} of a layer's change"
        yield f"ComfyUI divides magnitudes by the norms of the base's weights, so its result differs{far}"
    outside = [path for path in file.layers if split_part(path)[0] == UNET and not _IN_BLOCKS.match(path)]
    if outside:
        yield f"sd-scripts leaves out {len(outside)} layers outside the blocks, first {min(outside)}"


@torch.no_grad()
def _comfy_error(adapter: Decomposable, weight: Tensor) -> float:
    """‖error‖/‖ΔW‖ of m ⊙ (W+D)/‖W‖ in place of m ⊙ (W+D)/‖W+D‖."""
    assert adapter.magnitude is not None
    weight, exact = weight.double(), adapter.delta_weight(weight).double()
    theirs = (adapter.magnitude / row_norms(weight))[:, None] * (weight + adapter.change()) - weight
    return float((theirs - exact).norm() / exact.norm().clamp_min(torch.finfo(torch.float64).tiny))
