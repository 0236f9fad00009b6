"""Several adapters as one, layer by layer, whatever their methods and ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from dreamtune.adapters import Adapter, AdapterFile
from dreamtune.adapters.delta import Delta
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.fingerprint import Fingerprint
from dreamtune.adapters.parts import size_of
from dreamtune.adapters.targets import match_layers
from dreamtune.errors import ConfigError, IncompatibleModelError
from dreamtune.names import THINNED

from .layer_deltas import LayerDelta, balanced
from .methods import FUSIONS
from .moments import Inputs


@dataclass(frozen=True, eq=False)
class WeightedAdapter:
    """An adapter that is to be part of a fusion."""

    name: str
    """For messages."""
    file: AdapterFile
    weight: float = 1.0
    """λ"""
    blocks: Mapping[str, float] = field(default_factory=dict)
    """Pattern on layer paths -> a further factor there, as AttachedAdapter.strengths has it."""


@dataclass(frozen=True)
class FusionOptions:
    """How to fuse. Raises ConfigError for what is out of range or belongs to another fusion."""

    method: str = "sum"
    """A name in FUSIONS."""
    density: float | None = None
    """Share of the numbers that is kept, for those in THINNED; 0.5 if not set."""
    balance: Literal["weights", "output"] | None = None
    """First bring all changes of a layer to one size, see balanced: of ΔW itself, or of what it does to the output."""
    seed: int = 0
    """For what is drawn at random."""

    def __post_init__(self) -> None:
        """Check them."""
        if self.method not in FUSIONS:
            raise ConfigError(f"method = {self.method!r} must be one of {', '.join(FUSIONS)}")
        if self.density is not None and self.method not in THINNED:
            raise ConfigError(f"{self.method} has no density: unset it, or use one of {', '.join(THINNED)}")
        if self.density is not None and not 0 < self.density <= 1:
            raise ConfigError(f"density = {self.density} must be more than 0 and at most 1")

    @property
    def share(self) -> float:
        """The density that counts."""
        return 0.5 if self.density is None else self.density


def fuse_layers(
    ingredients: Sequence[WeightedAdapter],
    options: FusionOptions,
    weights: Mapping[str, Tensor] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    inputs: Inputs | None = None,
    paths: Collection[str] | None = None,
) -> Iterator[tuple[str, Delta]]:
    """Layer path -> ΔW of the fusion, of every layer that an ingredient of a weight other than 0 changes.

    weights: layer path -> base weight (out, in), needed where a change depends on it. inputs: for fusions in
    RECORDED and the balance of outputs; a layer that is not in it never got any. paths: only these layers. Raises
    ConfigError where something is missing, and for patterns of blocks that fit no layer; IncompatibleModelError for
    layers of unlike sizes or trained on different weights.
    """
    taken = weighted(ingredients)
    if not any(it.file.layers for it in taken):
        raise ConfigError("none of the adapters changes a layer, so there is nothing to fuse")
    records = {path: it for path, it in common_layers(taken).items() if paths is None or path in paths}
    own = [changes(it, records, weights) for it in taken]
    report = on_progress or (lambda done, total: None)
    seeds = [content_digest(it.file) for it in taken]
    for done, (path, record) in enumerate(records.items(), 1):
        parts = [
            LayerDelta(delta, weight, _seed(options.seed, seeds[number], path), *_moments(inputs, number, path, record))
            for number, change in enumerate(own)
            for weight, delta in [change(path)]
            if weight != 0
        ]
        if parts:
            parts = parts if options.balance is None else balanced(parts, options.balance)
            yield path, FUSIONS[options.method](parts, options.share)
        report(done, len(records))


def changes(
    it: WeightedAdapter, records: Mapping[str, LayerRecord], weights: Mapping[str, Tensor] | None
) -> Callable[[str], tuple[float, Delta]]:
    """Path of a layer in `records` -> λ of the adapter there, and its ΔW, which is 0 where it leaves the layer alone.

    Raises ConfigError for patterns of blocks that fit no layer, and, when called, where ΔW depends on a weight that is
    not given.
    """
    adapters, factors = it.file.adapters(), match_layers(list(it.file.layers), it.blocks, it.name)

    def change(path: str) -> tuple[float, Delta]:
        weight = it.weight * factors.get(path, 1.0)
        if weight == 0 or path not in adapters:
            return weight, Delta.zero(records[path].shape)
        return weight, _delta(it, adapters[path], path, records[path], weights)

    return change


def weighted(ingredients: Sequence[WeightedAdapter]) -> list[WeightedAdapter]:
    """Those that take part: of a weight other than 0. Raises ConfigError if there are none."""
    taken = [it for it in ingredients if it.weight != 0]
    if not taken:
        raise ConfigError("all adapters have the weight 0: set at least one non-zero weight")
    return taken


def common_layers(ingredients: Sequence[WeightedAdapter]) -> dict[str, LayerRecord]:
    """The layers of all of them. Raises IncompatibleModelError where two were trained on different bases."""
    found: dict[str, tuple[str, LayerRecord]] = {}
    for it in ingredients:
        for path, record in it.file.layers.items():
            first, known = found.setdefault(path, (it.name, record))
            if (known.shape, known.window) != (record.shape, record.window):
                sizes = [size_of(it.shape, it.window) for it in (known, record)]
                raise IncompatibleModelError(
                    f"{first} and {it.name} are for different bases: the layer {path} is {sizes[0]} in one, "
                    f"{sizes[1]} in the other"
                )
            if known.fingerprint is None:
                found[path] = (it.name, record)
            elif record.fingerprint is not None and not _same(record.fingerprint, known.fingerprint):
                raise IncompatibleModelError(
                    f"{first} and {it.name} were trained on different bases: the weights of layer {path} differ; "
                    "train one of them again on the other's base"
                )
    return {path: record for path, (_, record) in found.items()}


def content_digest(file: AdapterFile) -> str:
    """Of the tensors alone: the same adapter draws the same numbers under any name."""
    digest = hashlib.sha256()
    for name in sorted(file.tensors):
        digest.update(name.encode())
        digest.update(file.tensors[name].reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _same(one: Fingerprint, other: Fingerprint) -> bool:
    """Of one base, whatever precision each was trained in."""
    return one.float16 == other.float16 or one.bfloat16 == other.bfloat16


def _delta(
    it: WeightedAdapter, adapter: Adapter, path: str, record: LayerRecord, weights: Mapping[str, Tensor] | None
) -> Delta:
    if weights is None and adapter.uses_weight:
        raise ConfigError(f"the change of {it.name} ({it.file.method}) depends on the base's weights: set the base")
    weight = torch.empty(record.shape, device="meta") if weights is None else weights[path]
    return Delta.of_adapter(adapter, weight)


def _seed(seed: int, digest: str, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {digest} {path}".encode()).digest()[:8], "big") >> 1


def _moments(inputs: Inputs | None, number: int, path: str, record: LayerRecord) -> tuple[Tensor | None, Tensor | None]:
    """What is known of a layer's inputs: those of one adapter, and those of captions."""
    if inputs is None:
        return None, None
    own = inputs.own[number].get(path)
    return torch.zeros(record.shape[1], record.shape[1]) if own is None else own, inputs.kept.get(path)
