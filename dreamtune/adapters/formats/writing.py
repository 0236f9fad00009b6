"""Adapters in the formats of diffusers and PEFT, so that their readers get the same ΔW."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dreamtune.errors import ConfigError

from ..base import Adapter, scaled
from ..file import AdapterFile
from ..methods.decompose import Decomposable
from ..methods.lokr import LoKr, split
from ..parts import UNET
from .kernels import as_kept, kernels
from .settings import DIFFUSERS_KEY
from .tensors import LOHA, LOKR, Content, alpha_of, cast, shown

_LORA = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
PEFT = {"lora": _LORA, "dora": _LORA, "loha": LOHA, "lokr": LOKR}
"""Method that PEFT has -> our name of a tensor -> theirs."""
_ATTENTION = re.compile(r"\.to_(q|k|v|out)(?:\.0)?$")

Kernels = Mapping[str, tuple[int, int] | None]


def to_diffusers(file: AdapterFile, dtype: torch.dtype) -> Content:
    """A file that diffusers' `load_lora_weights` reads; of LoRA it is one that ComfyUI reads, too.

    LoRA has the scale 1, and the names of diffusers' first LoRA files (`attn1.processor.to_q_lora.up`): ComfyUI knows
    no newer ones of attention layers, and looks for the scale in no metadata. DoRA has PEFT's names, its only ones in
    diffusers, and magnitudes in fp32. PEFT's options are in the metadata. Raises ConfigError for methods other than
    LoRA and DoRA, and for values beyond `dtype`.
    """
    if file.method not in ("lora", "dora"):
        _check_method(file)
        raise ConfigError(
            f"diffusers does not read {file.method} files: for PEFT, write a folder (a name without .safetensors)"
        )
    _check_by_output(file)
    tensors: dict[str, Tensor] = {}
    options: dict[str, Any] = {}
    for part in file.parts:
        own = file.part(part)
        adapters = own.adapters()
        write = _lora_tensors if file.method == "lora" else _dora_tensors
        sizes = _kernels(file, part)
        tensors |= write(part, adapters, sizes, dtype)
        # PEFT matches the ends of paths: the same with and without `text_model.`, which not all of transformers have
        config = _peft_config(file.method, adapters, sizes, _ranks(adapters) if file.method == "lora" else None)
        options |= {f"{part}.{key}": value for key, value in config.items()}
    return tensors, shown(file) | {"format": "pt", DIFFUSERS_KEY: json.dumps(options, sort_keys=True)}


def to_peft_folder(file: AdapterFile, dtype: torch.dtype) -> tuple[Content, dict[str, Any]]:
    """The tensor file, and the options in adapter_config.json, of a folder for PEFT's `PeftModel.from_pretrained`.

    Raises ConfigError for what PEFT does not have, for several parts of a base, and for values beyond `dtype`.
    """
    _check_method(file)
    if len(file.parts) > 1:
        raise ConfigError(
            f"a PEFT folder is for one model, but the adapter changes {' and '.join(file.parts)}: use the format kohya"
        )
    if file.method in ("loha", "lokr") and any(name.endswith(".magnitude") for name in file.tensors):
        raise ConfigError(f"PEFT has no weight decomposition for {file.method}: use the format kohya")
    _check_by_output(file)
    part = next(iter(file.parts))
    adapters, sizes = file.part(part).adapters(), _kernels(file, part)
    tensors = _peft_tensors(file.method, adapters, sizes, dtype)
    kind = {"dora": "LORA"}.get(file.method, file.method.upper())
    config = _peft_config(file.method, adapters, sizes) | {"peft_type": kind, "task_type": None, "inference_mode": True}
    return ({f"base_model.model.{name}": t for name, t in tensors.items()}, shown(file) | {"format": "pt"}), config


def _kernels(file: AdapterFile, part: str) -> Kernels:
    """By the paths in the part; it takes the whole file to tell them."""
    prefix = "" if part == UNET else f"{part}."
    return {path.removeprefix(prefix): kernel for path, kernel in kernels(file.layers).items()}


def _lora_tensors(part: str, adapters: Mapping[str, Adapter], sizes: Kernels, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {}
    for path, adapter in adapters.items():
        state = adapter.state_dict()
        state["up"] = scaled(adapter.config.scale, state["up"])
        kept = as_kept(state, sizes[path])
        for own in ("down", "up"):
            if part != UNET:
                name = f"text_model.{path}.{_LORA[own]}"
            elif _ATTENTION.search(path):
                name = _ATTENTION.sub(rf".processor.to_\1_lora.{own}.weight", path)
            else:
                name = f"{path}.lora.{own}.weight"
            tensors[f"{part}.{name}"] = cast(kept[own], dtype, path)
    return tensors


def _dora_tensors(part: str, adapters: Mapping[str, Adapter], sizes: Kernels, dtype: torch.dtype) -> dict[str, Tensor]:
    inside = "" if part == UNET else "text_model."
    tensors = {}
    for name, tensor in _peft_tensors("dora", adapters, sizes, dtype).items():
        # Only so do transformers, unlike PEFT, find it: a text encoder without its magnitudes loads silently.
        ending = ".weight" if part != UNET and name.endswith("_vector") else ""
        tensors[f"{part}.{inside}{name}{ending}"] = tensor
    return tensors


def _peft_tensors(
    method: str, adapters: Mapping[str, Adapter], sizes: Kernels, dtype: torch.dtype
) -> dict[str, Tensor]:
    tensors = {}
    for path, adapter in adapters.items():
        state = adapter.state_dict()
        for own, tensor in as_kept(state, sizes[path]).items():
            name = f"{path}.{PEFT[method][own]}"
            if own == "magnitude":  # (out,), of a convolution (1, out, 1, 1)
                size = (-1,) if sizes[path] is None else (1, -1, 1, 1)
                tensors[name] = cast(tensor.reshape(size), torch.float32, path)
            else:
                tensors[name] = cast(tensor, dtype, path)
    return tensors


def _ranks(adapters: Mapping[str, Adapter]) -> dict[str, int]:
    return {path: adapter.config.rank for path, adapter in adapters.items()}


def _peft_config(
    method: str, adapters: Mapping[str, Adapter], sizes: Kernels, alphas: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """PEFT's options. alphas: by layer path; the adapters' own if left out."""
    ranks = _ranks(adapters)
    alphas = alphas or {path: alpha_of(adapter) for path, adapter in adapters.items()}
    rank, alpha = int(_commonest(ranks.values())), float(_commonest(alphas.values()))
    config = {
        "r": rank,
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {path: float(value) for path, value in alphas.items() if value != alpha},
        "target_modules": sorted(adapters),
    }
    if method in ("lora", "dora"):
        return config | {"lora_alpha": alpha, "use_dora": method == "dora"}
    return config | {"alpha": alpha} | (_lokr_options(adapters, sizes) if method == "lokr" else {})


def _lokr_options(adapters: Mapping[str, Adapter], sizes: Kernels) -> dict[str, Any]:
    options = {(a.config.factor, a.config.decompose_both) for a in adapters.values() if isinstance(a, LoKr)}
    if len(options) > 1:
        raise ConfigError(
            "PEFT has a single factor for all layers of a LoKr, this adapter has several: use the format kohya"
        )
    ((factor, both),) = options
    for path, adapter in adapters.items():
        state = adapter.state_dict()
        rows, columns = (state["w1"] if "w1" in state else state["up1"] @ state["down1"]).shape
        channels = adapter.in_features // math.prod(sizes[path] or (1, 1))
        for size, found in ((adapter.out_features, rows), (channels, columns)):
            if (factor if factor > 0 and size % factor == 0 else split(size, factor)[0]) != found:
                raise ConfigError(
                    f"PEFT splits {size} differently with factor = {factor} (layer {path}): use the format kohya"
                )
    return {"decompose_factor": factor, "decompose_both": both}


def _commonest(values: Iterable[float]) -> float:
    return Counter(values).most_common(1)[0][0]


def _check_by_output(file: AdapterFile) -> None:
    if any(isinstance(adapter, Decomposable) and adapter.by_input for adapter in file.adapters().values()):
        raise ConfigError("PEFT's magnitudes are per output, this adapter's per input: use the format kohya")


def _check_method(file: AdapterFile) -> None:
    if file.method not in PEFT:
        raise ConfigError(f"PEFT does not support {file.method}, only {', '.join(PEFT)}: convert it to plain LoRA")
