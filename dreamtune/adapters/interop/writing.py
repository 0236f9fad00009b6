"""LoRA, DoRA, LoHa and LoKr in the formats of PEFT, diffusers and kohya, so that their readers get the same ΔW."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..base import Adapter
from ..file import AdapterFile
from ..methods.decompose import Decomposable
from ..methods.lokr import LoKr, split
from ..parts import TEXT_ENCODERS, UNET
from .names import kohya_name
from .settings import DIFFUSERS_KEY

_LORA = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_LOHA = {"up1": "hada_w1_a", "down1": "hada_w1_b", "up2": "hada_w2_a", "down2": "hada_w2_b"}
_LOKR = {
    "w1": "lokr_w1",
    "up1": "lokr_w1_a",
    "down1": "lokr_w1_b",
    "w2": "lokr_w2",
    "up2": "lokr_w2_a",
    "down2": "lokr_w2_b",
}
_PEFT = {"lora": _LORA, "dora": _LORA, "loha": _LOHA, "lokr": _LOKR}
_KOHYA_LORA = {"down": "lora_down.weight", "up": "lora_up.weight"}
_KOHYA = {"lora": _KOHYA_LORA, "dora": _KOHYA_LORA, "loha": _LOHA, "lokr": _LOKR}
"""Method -> our name of a tensor -> theirs."""
_SDXL_TEXT_WIDTH = 2048
_OTHER_TEXT_WIDTHS = {768, 1024}
_CROSS = re.compile(r"\.attn2\.to_[kv]$")
_NOT_IN_SDXL = re.compile(r"down_blocks\.0\.attentions|(?:down|up)_blocks\.3\.|up_blocks\.2\.attentions")
_ONLY_IN_SDXL = re.compile(r"^up_blocks\.0\.attentions|\.transformer_blocks\.[1-9]|^add_embedding\.")
"""Paths in UNets; asked in this order, since pocket's has attention in all blocks."""

Content = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata of a safetensors file."""


def to_kohya(file: AdapterFile, dtype: torch.dtype, sdxl: bool | None = None) -> Content:
    """A file of kohya or LyCORIS, which ComfyUI and others read too.

    sdxl: whether it is for an SDXL base, whose layers have other names; None to tell it by the adapter's layers. Each
    layer's alpha carries the whole scale, rank-stabilised or not. diffusers gives the commonest alpha to every layer of
    a UNet, so that LoRA has one for all, and what differs is multiplied into `lora_up`. LyCORIS ignores the alpha of a
    LoKr whose two matrices are whole; there the scale is multiplied into the first. Magnitudes stay in fp32: they are
    about ‖W‖, and rounding them would be a change as large as ΔW. Raises ConfigError for another method, for layers
    that have no name there or do not tell whether they are SDXL's, and for values beyond `dtype`.
    """
    _check_method(file)
    xl = _is_of_sdxl(file) if sdxl is None else sdxl
    tensors: dict[str, Tensor] = {}
    adapters = file.adapters()
    common = _commonest(_alpha(adapter) for adapter in adapters.values())
    for path, adapter in adapters.items():
        name, state, alpha = kohya_name(path, xl), adapter.state_dict(), _alpha(adapter)
        if file.method == "lora" and alpha != common:
            state["up"], alpha = alpha / common * state["up"], common
        if state.keys() >= {"w1", "w2"}:
            state["w1"], alpha = adapter.config.scale * state["w1"], float(adapter.config.rank)
        for own, theirs in _KOHYA[file.method].items():
            if own in state:
                tensors[f"{name}.{theirs}"] = _cast(state[own], dtype, path)
        if "magnitude" in state:
            across = 0 if _by_input(adapter) else 1
            tensors[f"{name}.dora_scale"] = _cast(state["magnitude"].unsqueeze(across), torch.float32, path)
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    shown = _shown(file)
    if file.method == "lora":
        return tensors, shown | {"ss_network_module": "networks.lora"}
    algorithm = {"dora": "locon"}.get(file.method, file.method)
    arguments = {"algo": algorithm, "dora_wd": _decomposes(file)}
    return tensors, shown | {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(arguments)}


def to_diffusers(file: AdapterFile, dtype: torch.dtype) -> Content:
    """A file that diffusers' `load_lora_weights` reads, with PEFT's options in its metadata; magnitudes in fp32.

    Raises ConfigError for methods other than LoRA and DoRA, and for values beyond `dtype`.
    """
    if file.method not in ("lora", "dora"):
        _check_method(file)
        raise ConfigError(f"diffusers reads no {file.method} file: for PEFT give a folder, a name without .safetensors")
    _check_by_output(file)
    tensors, options = {}, {}
    for part in file.parts:
        inside = "" if part == UNET else "text_model."
        adapters = file.part(part).adapters()
        named = {f"{inside}{path}": adapter for path, adapter in adapters.items()}
        for name, tensor in _peft_tensors(file.method, named, dtype).items():
            # Only so do transformers, unlike PEFT, find it: a text encoder without its magnitudes loads silently.
            ending = ".weight" if part != UNET and name.endswith("_vector") else ""
            tensors[f"{part}.{name}{ending}"] = tensor
        # PEFT matches the ends of paths: the same with and without `text_model.`, which not all of transformers have
        options |= {f"{part}.{key}": value for key, value in _peft_config(file.method, adapters).items()}
    return tensors, _shown(file) | {"format": "pt", DIFFUSERS_KEY: json.dumps(options, sort_keys=True)}


def to_peft_folder(file: AdapterFile, dtype: torch.dtype) -> tuple[Content, dict[str, Any]]:
    """The tensor file, and the options in adapter_config.json, of a folder for PEFT's `PeftModel.from_pretrained`.

    Raises ConfigError for what PEFT does not have, for several parts of a base, and for values beyond `dtype`.
    """
    _check_method(file)
    if len(file.parts) > 1:
        raise ConfigError(f"PEFT's folders are of one model, the adapter changes {' and '.join(file.parts)}: use kohya")
    if file.method in ("loha", "lokr") and _decomposes(file):
        raise ConfigError(f"PEFT has no weight decomposition of {file.method}: use the format kohya")
    _check_by_output(file)
    adapters = file.part(next(iter(file.parts))).adapters()
    tensors = _peft_tensors(file.method, adapters, dtype)
    kind = {"dora": "LORA"}.get(file.method, file.method.upper())
    config = _peft_config(file.method, adapters) | {"peft_type": kind, "task_type": None, "inference_mode": True}
    return ({f"base_model.model.{name}": t for name, t in tensors.items()}, _shown(file) | {"format": "pt"}), config


def _peft_tensors(method: str, adapters: Mapping[str, Adapter], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        f"{path}.{_PEFT[method][own]}": _cast(tensor, torch.float32 if own == "magnitude" else dtype, path)
        for path, adapter in adapters.items()
        for own, tensor in adapter.state_dict().items()
    }


def _peft_config(method: str, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    ranks = {path: adapter.config.rank for path, adapter in adapters.items()}
    alphas = {path: _alpha(adapter) for path, adapter in adapters.items()}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    config = {
        "r": rank,
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
        "target_modules": sorted(adapters),
    }
    if method in ("lora", "dora"):
        return config | {"lora_alpha": alpha, "use_dora": method == "dora"}
    return config | {"alpha": alpha} | (_lokr_options(adapters) if method == "lokr" else {})


def _lokr_options(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    options = {(a.config.factor, a.config.decompose_both) for a in adapters.values() if isinstance(a, LoKr)}
    if len(options) > 1:
        raise ConfigError("PEFT has one factor for all layers of a LoKr, this adapter several: use the format kohya")
    ((factor, both),) = options
    for path, adapter in adapters.items():
        for size in adapter.shape:
            if factor > 0 and size % factor == 0 and split(size, factor)[0] != factor:
                raise ConfigError(f"PEFT splits {size} by factor = {factor} in another order (layer {path}): use kohya")
    return {"decompose_factor": factor, "decompose_both": both}


def _alpha(adapter: Adapter) -> float:
    """The alpha that over the rank is the scale, rank-stabilised or not."""
    config = adapter.config
    return config.scale * config.rank if config.rslora else config.alpha


def _commonest(values: Iterable[float]) -> float:
    return Counter(values).most_common(1)[0][0]


def _is_of_sdxl(file: AdapterFile) -> bool:
    """Told by what only one design has: text encoders and their widths, and where in the UNet attention is."""
    parts = {*file.parts, *file.embeddings}
    widths = {record.shape[1] for path, record in file.layers.items() if _CROSS.search(path)}
    if TEXT_ENCODERS[1] in parts or _SDXL_TEXT_WIDTH in widths:
        return True
    if widths & _OTHER_TEXT_WIDTHS or any(_NOT_IN_SDXL.match(path) for path in file.layers):
        return False
    if any(_ONLY_IN_SDXL.search(path) for path in file.layers):
        return True
    raise ConfigError(
        "the adapter's layers do not tell whether they are of SDXL, where kohya calls them otherwise: give the base"
    )


def _decomposes(file: AdapterFile) -> bool:
    return any(name.endswith(".magnitude") for name in file.tensors)


def _by_input(adapter: Adapter) -> bool:
    return isinstance(adapter, Decomposable) and adapter.by_input


def _check_by_output(file: AdapterFile) -> None:
    if any(_by_input(adapter) for adapter in file.adapters().values()):
        raise ConfigError("PEFT's magnitudes are of outputs, this adapter's of inputs: use the format kohya")


def _check_method(file: AdapterFile) -> None:
    if file.method not in _PEFT:
        raise ConfigError(f"other tools have no {file.method}, only {', '.join(_PEFT)}: use the format lora")


def _cast(tensor: Tensor, dtype: torch.dtype, path: str) -> Tensor:
    cast = tensor.detach().to(dtype).contiguous()
    if not cast.isfinite().all():
        raise ConfigError(f"the values of layer {path} do not fit into {dtype}: use fp32 or bf16")
    return cast


def _shown(file: AdapterFile) -> dict[str, str]:
    """The metadata that other tools show."""
    return {key: value for key, value in file.to_header().items() if key.startswith(("modelspec.", "ss_"))}
