"""Files that mix methods: as LoRA, where that expresses all of their layers exactly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.errors import AdapterFileError

from ..description import LayerRecord
from ..methods import METHODS
from .assembled import Assembled

_MOST_DENSE = 2**28
"""Numbers of all changes that have no small factors: 1 GB in fp32, a UNet of SD 1.5 in three parts of four."""


@dataclass(frozen=True, eq=False)
class Converted:
    """One layer as an adapter of ours."""

    method: str
    record: LayerRecord
    """With all of the method's options that the layer needs."""
    tensors: Mapping[str, Tensor]
    """As in the adapter's state_dict()."""


def in_one_method(layers: Mapping[str, Converted]) -> tuple[Mapping[str, Converted], tuple[str, ...]]:
    """The layers with one method for all, which an adapter file needs, and a remark if they had several.

    Several become LoRA: by exact factors where there are small ones, else by ΔW and the identity. Raises
    AdapterFileError where that cannot be: a change that depends on the base's weights has no factors, and dense changes
    of a whole base no place in memory.
    """
    counts = Counter(layer.method for layer in layers.values())
    if len(counts) == 1:
        return layers, ()
    mix = ", ".join(f"{method} in {count} layers" for method, count in counts.most_common())
    factors, dense = dict[str, tuple[Tensor, Tensor]](), 0
    for path, layer in layers.items():
        with torch.no_grad():
            kind = METHODS[layer.method]
            adapter = kind(kind.config_class(**layer.record.options), *layer.record.shape)
            adapter.load_state_dict({name: tensor.float() for name, tensor in layer.tensors.items()}, assign=True)
            if adapter.uses_weight:
                raise AdapterFileError(
                    f"it mixes methods ({mix}), and a change by magnitudes cannot be converted: "
                    "save it again with one method"
                )
            stand_in = torch.empty(layer.record.shape, device="meta")
            exact = adapter.low_rank(stand_in)
            if exact is None:
                dense += math.prod(layer.record.shape)
                if dense > _MOST_DENSE:
                    raise AdapterFileError(
                        f"it mixes methods ({mix}) and is too large to convert: save it again with one"
                    )
                change, identity = adapter.delta_weight(stand_in), torch.eye(min(layer.record.shape))
                exact = (change, identity) if change.shape[0] >= change.shape[1] else (identity, change)
            factors[path] = (exact[0].detach(), exact[1].detach())
    lora = Assembled.of(factors, {path: layer.record for path, layer in layers.items()})
    usual = {"rank": lora.config.rank, "alpha": lora.config.alpha}
    found = {
        path: Converted(
            "lora",
            LayerRecord(record.shape, None, usual | dict(record.options), record.kernel),
            {name: lora.tensors[f"{path}.{name}"] for name in ("up", "down")},
        )
        for path, record in lora.layers.items()
    }
    return found, (f"it mixes methods ({mix}): it is read as the equivalent LoRA",)
