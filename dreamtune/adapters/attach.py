"""Attaching an adapter to a model and detaching it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from dreamtune.errors import ConfigError

from .attachment import Attachment
from .base import Adapter, MethodConfig, ParameterOptions
from .layer import AdaptedLayer, Slot, kernel_of, matrix_shape, pristine_weight
from .methods import METHODS
from .parts import layer_at
from .targets import match_layers, select_targets


class AttachedAdapter(Attachment):
    """An adapter attached to a model: its parameters (the only trainable ones), its strength, merging and detaching.

    To copy an adapted model, copy both together: `copy.deepcopy((model, attached))`.
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: Mapping[str, Adapter],
        method: str,
        config: MethodConfig,
        strength: float = 1.0,
    ) -> None:
        """Install `adapters` (layer path -> adapter) on `model`; use :func:`attach` or AdapterFile.attach.

        config: the method's configuration; single layers may deviate from it.
        """
        super().__init__()
        self.method, self.config = method, config
        self.by_layer = nn.ModuleDict({path.replace(".", "/"): adapter for path, adapter in adapters.items()})
        self._slots: dict[str, tuple[AdaptedLayer, Slot]] = {}
        self._attached = True
        self._strength, self._strengths = _checked("strength", strength), dict[str, float]()
        self._factors: dict[str, float] = {}
        layers = {path: layer_at(model, path, adapter.shape) for path, adapter in adapters.items()}
        for path, adapter in adapters.items():
            adapter.to(layers[path].weight.device)
        for path, adapter in adapters.items():  # nothing can fail from here on: all layers are changed or none
            layer, slot = AdaptedLayer.install(layers[path]), Slot(adapter, self._strength)
            layer.insert(slot)
            self._slots[path] = (layer, slot)
        self.eval()

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Layer path -> the adapter there."""
        return {path.replace("/", "."): adapter for path, adapter in self.by_layer.items()}  # pyright: ignore[reportReturnType]

    @property
    def attached(self) -> bool:
        """False after :meth:`detach`."""
        return self._attached

    def layers(self) -> Iterator[tuple[str, AdaptedLayer, Adapter]]:
        """Path, layer and adapter of each adapted layer."""
        for path, (layer, slot) in self._slots.items():
            yield path, layer, slot.adapter

    @property
    def strength(self) -> float:
        """The factor on ΔW: 0 is exactly the base, 1 the adapter as trained; any finite number is allowed."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        checked = _checked("strength", value)
        self._check_merged()
        self._strength = checked
        self._update_slots()

    @property
    def strengths(self) -> Mapping[str, float]:
        """Pattern on layer paths -> a further factor on ΔW there (1 elsewhere); of several that match the last counts.

        Setting it raises ConfigError for a pattern that is no regular expression or matches none of the layers.
        """
        return dict(self._strengths)

    @strengths.setter
    def strengths(self, value: Mapping[str, float]) -> None:
        checked = {pattern: _checked(f"strengths[{pattern!r}]", factor) for pattern, factor in value.items()}
        factors = match_layers(list(self.adapters), checked, "strengths")
        self._check_merged()
        self._factors, self._strengths = factors, checked
        self._update_slots()

    def _check_merged(self) -> None:
        """Before merged layers change, all of them or none."""
        for layer, slot in self._slots.values():
            if slot.merged:
                layer.check_there()

    def _update_slots(self) -> None:
        for path, (layer, slot) in self._slots.items():
            slot.strength = self._strength * self._factors.get(path, 1.0)
            if slot.merged:
                layer.refresh()

    def merge(self) -> None:
        """Add strength·ΔW to the weights: no cost per forward pass. The base weights are kept aside.

        Adapters that change afterwards are not seen until this is called again. Raises IncompatibleModelError while the
        weights are offloaded; so do unmerging and detaching then.
        """
        self._set_merged(True)

    def unmerge(self) -> None:
        """Undo :meth:`merge`, bit for bit."""
        self._set_merged(False)

    def detach(self) -> None:
        """Detach the adapter: the model is then bit for bit what it was. Calling it again does nothing."""
        self._check_merged()
        for layer, slot in self._slots.values():
            layer.remove(slot)
        self._slots, self._attached = {}, False

    def on_step(self, step: int, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Tell every adapter that optimizer step `step` (0 for the first) comes next; their remarks, each once.

        on_progress: told the layers that are done and all of them, where a method has more to do than to count; on a
        large base that may take minutes.
        """
        remarks: dict[str, None] = {}
        for done, (_, layer, adapter) in enumerate(self.layers(), 1):
            remark = adapter.on_step(step, layer.base_weight)
            if remark:
                remarks[remark] = None
                if on_progress:
                    on_progress(done, len(self._slots))
        return list(remarks)

    def parameter_groups(self) -> dict[ParameterOptions, list[nn.Parameter]]:
        """The parameters by how the optimizer is to treat them, in the order of :meth:`parameters`."""
        groups: dict[ParameterOptions, list[nn.Parameter]] = {}
        for adapter in self.adapters.values():
            options = adapter.parameter_options()
            for name, parameter in adapter.named_parameters():
                groups.setdefault(options.get(name, ParameterOptions()), []).append(parameter)
        return groups

    def _set_merged(self, merged: bool) -> None:
        for layer, slot in self._slots.values():
            if merged or slot.merged:
                layer.check_there()
        for layer, slot in self._slots.values():
            slot.merged = merged
            layer.refresh()


def attach(
    module: nn.Module,
    config: MethodConfig,
    targets: str = "attn",
    seed: int = 0,
    strength: float = 1.0,
    *,
    ranks: Mapping[str, int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> AttachedAdapter:
    """Attach a new adapter of `config`'s method to the layers of `module` that `targets` names (see select_targets).

    The model's output does not change before training. Initial values depend on `seed` and on a layer's path only.
    Several adapters, of different methods, may be attached at once; their changes add up. What is to be trained is
    `parameters()` of the result; freezing the model's own is left to the caller.

    ranks: pattern on layer paths -> another rank there, alpha in proportion; of several that match the last counts.
    on_progress: told the layers that are done and all of them; methods that start from singular vectors take minutes
    on a base that they have not seen before.

    Raises ConfigError for targets or `ranks` that match nothing or a rank that a layer cannot have,
    IncompatibleModelError for layers that cannot be adapted; the module is then unchanged.
    """
    method, kind = _method_of(config)
    layers = {path: layer_at(module, path) for path in select_targets(module, targets)}
    other_ranks = match_layers(list(layers), ranks or {}, "ranks")
    adapters: dict[str, Adapter] = {}
    for path, layer in layers.items():
        try:
            own = config.with_rank(other_ranks[path]) if path in other_ranks else config
            if (kernel_of(layer) or (1, 1)) != (1, 1):
                own = own.for_convolution(layer.weight.shape[1])
            adapters[path] = kind(own, *matrix_shape(layer))
        except ConfigError as error:
            raise ConfigError(f"{error} (layer {path})") from None
    report = on_progress or (lambda done, total: None)
    for done, (path, adapter) in enumerate(adapters.items()):  # only now, since this may take long
        report(done, len(adapters))
        adapter.initialize(pristine_weight(layers[path]).detach(), _generator(seed, path))
    report(len(adapters), len(adapters))
    return AttachedAdapter(module, adapters, method, config, strength)


def _method_of(config: MethodConfig) -> tuple[str, type[Adapter]]:
    for name, kind in METHODS.items():
        if kind.config_class is type(config):
            return name, kind
    raise ConfigError(f"{type(config).__name__} belongs to no method: use the config class of a method in METHODS")


def _generator(seed: int, path: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _checked(name: str, strength: float) -> float:
    value = float(strength)
    if not math.isfinite(value):
        raise ConfigError(f"{name} = {strength} must be a finite number")
    return value
