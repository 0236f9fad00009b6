"""Adapters in the format of kohya's sd-scripts and LyCORIS, which ComfyUI, A1111 and others read too."""

from __future__ import annotations

import json
import math
import re
from collections import Counter

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..base import Adapter, scaled
from ..file import AdapterFile
from ..methods.decompose import Decomposable
from ..parts import TEXT_ENCODERS
from .kernels import as_kept, kernels, text_widths
from .names import kohya_name
from .tensors import LOHA, LOKR, Content, alpha_of, cast, shown

_LORA = {"down": "lora_down.weight", "up": "lora_up.weight"}
KOHYA = {"lora": _LORA, "dora": _LORA, "loha": LOHA, "lokr": LOKR, "full": {"change": "diff"}}
"""Method that the format has -> our name of a tensor -> theirs."""
_ALGORITHMS = {"dora": "locon"}
_NOT_IN_SDXL = re.compile(r"down_blocks\.0\.attentions|(?:down|up)_blocks\.3\.|up_blocks\.2\.attentions")
_ONLY_IN_SDXL = re.compile(r"^up_blocks\.0\.attentions|\.transformer_blocks\.[1-9]|^add_embedding\.")
"""Paths in UNets; asked in this order, since pocket's has attention in all blocks."""


def to_kohya(file: AdapterFile, dtype: torch.dtype, sdxl: bool | None = None) -> Content:
    """The tensors and metadata of a file of LoRA, DoRA, LoHa, LoKr or full changes.

    sdxl: whether it is for an SDXL base, whose layers have other names; None to tell it by the adapter's layers.
    Magnitudes stay in fp32: they are about ‖W‖, and rounding them would be a change as large as ΔW. See
    :func:`_scaled_state` for the scale. Raises ConfigError for another method, for layers that have no name there or do
    not tell whether they are SDXL's, and for values beyond `dtype`.
    """
    if file.method not in KOHYA:
        raise ConfigError(
            f"kohya's format does not support {file.method}, only {', '.join(KOHYA)}: convert it to plain LoRA"
        )
    xl = is_of_sdxl(file) if sdxl is None else sdxl
    adapters, sizes = file.adapters(), kernels(file.layers)
    common = Counter(alpha_of(adapter) for adapter in adapters.values()).most_common(1)[0][0]
    tensors: dict[str, Tensor] = {}
    for path, adapter in adapters.items():
        name, by_input = kohya_name(path, xl), isinstance(adapter, Decomposable) and adapter.by_input
        if by_input and math.prod(sizes[path] or (1, 1)) > 1:
            raise ConfigError(
                f"LyCORIS has one magnitude per input, but this adapter has one per kernel element ({path})"
            )
        state, alpha = _scaled_state(file.method, adapter, common)
        kept = as_kept(state, sizes[path], by_input)
        for own, theirs in KOHYA[file.method].items():
            if own in kept:
                tensors[f"{name}.{theirs}"] = cast(kept[own], dtype, path)
        if "magnitude" in kept:
            tensors[f"{name}.dora_scale"] = cast(kept["magnitude"], torch.float32, path)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    if file.method == "lora":
        return tensors, shown(file) | {"ss_network_module": "networks.lora"}
    decomposed = any(name.endswith(".magnitude") for name in file.tensors)
    arguments = {"algo": _ALGORITHMS.get(file.method, file.method), "dora_wd": decomposed}
    return tensors, shown(file) | {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(arguments)}


def _scaled_state(method: str, adapter: Adapter, common: float) -> tuple[dict[str, Tensor], float | None]:
    """The layer's tensors and its alpha, which over the rank is the scale, rank-stabilized or not.

    diffusers gives the commonest alpha to every layer of a UNet, so that LoRA has the `common` one in all, and what
    differs is multiplied into `up`. LyCORIS' own merging applies alpha/rank of LoHa and LoKr twice, and ignores it in a
    LoKr of whole matrices: these have alpha = rank, and the scale is in their first matrix.
    """
    state, config = adapter.state_dict(), adapter.config
    if method == "full":
        return state, None
    if method in ("loha", "lokr"):
        first = next(name for name in ("up1", "w1") if name in state)
        return state | {first: scaled(config.scale, state[first])}, float(config.rank)
    alpha = alpha_of(adapter)
    if method == "lora" and alpha != common:
        return state | {"up": alpha / common * state["up"]}, common
    return state, alpha


def is_of_sdxl(file: AdapterFile) -> bool:
    """Told by what only one design has: text encoders and their widths, and where in the UNet attention is.

    Raises ConfigError if nothing tells.
    """
    widths = text_widths(file.layers)
    if TEXT_ENCODERS[1] in {*file.parts, *file.embeddings} or 2048 in widths:
        return True
    if widths & {768, 1024} or any(_NOT_IN_SDXL.match(path) for path in file.layers):
        return False
    if any(_ONLY_IN_SDXL.search(path) for path in file.layers):
        return True
    raise ConfigError(
        "the adapter's layers do not show whether they are SDXL's, which kohya names differently: set the base"
    )
