"""The contestants: dreamtune's methods and PEFT's, each with as many trainable numbers as a budget allows."""

# peft's injection is typed for its own models.
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save
from torch import Tensor, nn

from dreamtune.adapters import METHODS, AdapterFile, attach, select_targets
from dreamtune.adapters.attach import AttachedAdapter
from dreamtune.adapters.attachment import Attachment
from dreamtune.adapters.base import ParameterOptions
from dreamtune.models import Base

BUDGETS = (100_000, 25_000, 400_000)
"""Trainable numbers, in the order in which they are measured."""
TARGETS = "attn"
Options = tuple[tuple[str, Any], ...]
"""Options of a method, rank among them, sorted by name."""

_RATES = (3e-3, 1e-2, 3e-2)
RATES: dict[str, tuple[float, ...]] = {
    "lora": _RATES,
    "dora": _RATES,
    "lora-dash": _RATES,
    "spectral-a": (1e-3, 3e-3, 1e-2),
    "spectral-r": (2e-3, 6e-3, 2e-2),
    "loha": (1e-2, 3e-2, 1e-1),
    "lokr": (1e-2, 3e-2, 1e-1),
}
"""The learning rates that each method may choose from: as many for all, a factor of three apart; PEFT's have those of
ours. Where the highest of a first grid won on the subjects for tuning, this one begins a factor of three above it."""
_FACTORS = (8, 4, 2)
"""Of LoKr: how large its first matrix may be."""


@dataclass(frozen=True)
class Contestant:
    """A method of a toolkit."""

    toolkit: str
    """dreamtune or peft."""
    method: str

    @property
    def name(self) -> str:
        """As tables have it; ours by the method's name alone."""
        return self.method if self.toolkit == "dreamtune" else f"PEFT {self.method}"


CONTESTANTS = (
    *(Contestant("dreamtune", method) for method in RATES),
    *(Contestant("peft", method) for method in ("lora", "dora", "loha", "lokr")),
)


def sized(method: str, base: Base, budget: int) -> Options:
    """The options whose number of trainable parameters is nearest to `budget`, by ratio."""
    shapes = tuple((layer.out_features, layer.in_features) for layer in _layers(base.unet))
    limit = min(min(shape) for shape in shapes)
    factors = _FACTORS if method == "lokr" else (None,)
    choices: list[Options] = []
    for factor in factors:
        for rank in range(2 if method == "spectral-r" else 1, limit + 1):
            own = {} if factor is None else {"factor": factor}
            choices.append(tuple(sorted((own | {"rank": rank, "alpha": float(rank)}).items())))
    return min(choices, key=lambda options: abs(math.log(count(method, options, shapes) / budget)))


@cache
def count(method: str, options: Options, shapes: tuple[tuple[int, int], ...]) -> int:
    """Trainable numbers on layers of these shapes (out, in)."""
    config = METHODS[method].config_class(**dict(options))
    total = 0
    with torch.device("meta"):
        for shape in set(shapes):
            adapter = METHODS[method](config, *shape)
            total += shapes.count(shape) * sum(parameter.numel() for parameter in adapter.parameters())
    return total


def _layers(unet: nn.Module) -> list[nn.Linear]:
    return [layer for path in select_targets(unet, TARGETS) if isinstance(layer := unet.get_submodule(path), nn.Linear)]


def attached_by(base: Base, toolkit: str, method: str, options: Options, seed: int) -> AttachedAdapter | PeftAttached:
    """A new adapter of either toolkit on the base's UNet."""
    if toolkit == "dreamtune":
        return attach(base.unet, METHODS[method].config_class(**dict(options)), TARGETS, seed)
    return PeftAttached(base.unet, _peft_config(method, dict(options), select_targets(base.unet, TARGETS)), seed)


def _peft_config(method: str, options: dict[str, Any], paths: list[str]) -> Any:
    common = {"r": options["rank"], "target_modules": paths}
    alpha = int(options["alpha"])
    if method in ("lora", "dora"):
        return LoraConfig(lora_alpha=alpha, use_dora=method == "dora", **common)
    if method == "loha":
        return LoHaConfig(alpha=alpha, **common)
    return LoKrConfig(alpha=alpha, decompose_factor=options["factor"], **common)


class PeftAttached(Attachment):
    """An adapter of PEFT behind the interface of ours, so that one loop and one evaluation serve both."""

    def __init__(self, model: nn.Module, config: Any, seed: int) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the model is none of this module's own
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model)
        self._layers = {
            name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)
        }  # a plain dict, for the same reason
        self.trained = nn.ParameterList(p for layer in self._layers.values() for p in _trainable(layer))
        self._strength = 1.0

    @property
    def strength(self) -> float:
        """0 or 1."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        assert value in (0, 1)
        self._strength = value
        for layer in self._layers.values():
            layer.enable_adapters(value == 1)

    def parameter_groups(self) -> dict[ParameterOptions, list[nn.Parameter]]:
        """All parameters alike."""
        return {ParameterOptions(): list(self.trained)}

    def on_step(self, step: int, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
        """PEFT's methods do nothing of their own between steps."""
        return []

    def detach(self) -> None:
        """Put the layers of the model back."""
        (model,) = self._model
        for name, layer in self._layers.items():
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())
        self._layers = {}
        del model.peft_config  # else the next one is taken for a second adapter


def _trainable(layer: Any) -> list[nn.Parameter]:
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


def file_bytes(attached: AttachedAdapter | PeftAttached, base: Base) -> int:
    """Size of the adapter's file: ours with all that it says of itself, PEFT's tensors alone."""
    if isinstance(attached, PeftAttached):
        tensors: Mapping[str, Tensor] = {name: tensor.contiguous() for name, tensor in attached.state_dict().items()}
        return len(save(dict(tensors)))
    file = AdapterFile.from_attached(attached, base=base.id, token="sks", class_word="cat", training={})
    return len(file.to_bytes())
