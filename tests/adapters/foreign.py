"""Adapter files that are written for other tools, of every method and kind that they have."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.formats import to_kohya as any_to_kohya
from dreamtune.adapters.methods.lokr import split, whole_from
from tests.adapters.nets import TARGETS, attached_to, config_of, disturb, frozen_net

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "rslora": ("lora", {"rslora": True}),
    "dora": ("dora", {}),
    "loha": ("loha", {}),
    "rank-stabilised loha": ("loha", {"rslora": True}),
    "lokr": ("lokr", {"rank": 1}),
    "whole lokr": ("lokr", {"rank": 5, "factor": 2}),
    "lokr of factors": ("lokr", {"rank": 1, "decompose_both": True}),
    "decomposed loha": ("loha", {"weight_decompose": True}),
    "decomposed lokr": ("lokr", {"weight_decompose": True}),
}


def to_kohya(file: AdapterFile, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As for SD 1.x: the small network's paths do not tell; a second text encoder does."""
    return any_to_kohya(file, dtype, sdxl=None if "text_encoder_2" in file.parts else False)


def file_of(kind: str) -> AdapterFile:
    method, options = OPTIONS[kind]
    with attached_to(frozen_net(torch.float32), method, **options) as attached:
        return AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})


def with_two_ranks(method: str) -> AdapterFile:
    net = frozen_net(torch.float32)
    with attach(net, config_of(method), TARGETS, ranks={"second": 3}) as attached:
        for _, layer, adapter in attached.layers():
            disturb(adapter, layer.base_weight)
        return AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})


def real_layer(file: AdapterFile, path: str) -> AdapterFile:
    """The first layer's adapter under a path of Stable Diffusion."""
    record = file.layers["first"]
    tensors = {
        f"{path}.{name.removeprefix('first.')}": t for name, t in file.tensors.items() if name.startswith("first.")
    }
    return AdapterFile(**{**vars(file), "layers": {path: record}, "tensors": tensors})


def whole_ranks(weights: Mapping[str, Tensor], factor: int) -> dict[str, int]:
    """Of which LoKr keeps its second matrix whole, by the paths of these weights."""
    return {
        path: whole_from(split(weight.shape[0], factor)[1], split(weight.shape[1], factor)[1] * weight[0, 0].numel())
        for path, weight in weights.items()
    }


def file_on(
    method: str, weights: Mapping[str, Tensor], ranks: Mapping[str, int] | None = None, **options: Any
) -> AdapterFile:
    """The file of an adapter as in the middle of a training, on layers with these weights.

    weights: layer path -> (out, in), or (out, in, kh, kw) of a convolution; ranks: layer path -> its own rank.
    """
    config = config_of(method, **options)
    layers, tensors = {}, {}
    for path, weight in weights.items():
        matrix = weight.flatten(1)
        kernel = (weight.shape[2], weight.shape[3]) if weight.ndim == 4 else None
        its = replace(config, rank=ranks[path]) if ranks else config
        its = its if kernel in (None, (1, 1)) else its.for_convolution(weight.shape[1])
        own = dict(its.to_dict().items() - config.to_dict().items())
        adapter = METHODS[method](its, *matrix.shape)
        adapter.initialize(matrix, torch.Generator().manual_seed(0))
        disturb(adapter, matrix)
        layers[path] = LayerRecord(adapter.shape, None, own, kernel)
        tensors |= {f"{path}.{name}": tensor.detach().contiguous() for name, tensor in adapter.state_dict().items()}
    about: dict[str, Any] = {"base": "b", "token": "sks", "class_word": "dog", "training": {}}
    return AdapterFile(method=method, config=config, layers=layers, tensors=tensors, **about)
