"""Several adapter files as one: layers of all of them, whatever their methods and ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dreamtune.adapters import Adapter, AdapterFile
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.fingerprint import Fingerprint
from dreamtune.adapters.interop.assembled import Assembled
from dreamtune.adapters.targets import match_layers
from dreamtune.errors import ConfigError, IncompatibleModelError

from .delta import Delta
from .methods import FUSIONS, THINNED, Part, balanced

RANK = 64
"""Of layers whose result has no small factors, if no rank is given."""


@dataclass(frozen=True, eq=False)
class Ingredient:
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
    balance: bool = False
    """First bring all changes of a layer to the geometric mean of their norms."""
    seed: int = 0
    """For what is drawn at random."""

    def __post_init__(self) -> None:
        """Check them."""
        if self.method not in FUSIONS:
            raise ConfigError(f"method = {self.method!r} must be one of {', '.join(FUSIONS)}")
        if self.density is not None and self.method not in THINNED:
            raise ConfigError(f"{self.method} has no density: leave it out, or use one of {', '.join(THINNED)}")
        if self.density is not None and not 0 < self.density <= 1:
            raise ConfigError(f"density = {self.density} must be more than 0 and at most 1")

    @property
    def share(self) -> float:
        """The density that counts."""
        return 0.5 if self.density is None else self.density


@dataclass(frozen=True, eq=False)
class Fused:
    """The result of a fusion."""

    file: AdapterFile
    energy: Mapping[str, float]
    """Layer path -> share of ‖ΔW‖² that the file keeps of the fusion's result, 1 where it is exact."""
    ranks: Mapping[str, int]


def fuse_layers(
    ingredients: Sequence[Ingredient],
    options: FusionOptions,
    weights: Mapping[str, Tensor] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, Delta]]:
    """Layer path -> ΔW of the fusion, of every layer that an ingredient of a weight other than 0 changes.

    weights: layer path -> pristine weight (out, in), needed where a change depends on it. Raises ConfigError where it
    is missing, and for patterns of blocks that fit no layer; IncompatibleModelError for layers of unlike sizes or
    trained on different weights.
    """
    taken = weighted(ingredients)
    if not any(it.file.layers for it in taken):
        raise ConfigError("none of the adapters changes a layer: there is nothing to fuse")
    records = common_layers(taken)
    adapters = [it.file.adapters() for it in taken]
    factors = [match_layers(list(it.file.layers), it.blocks, it.name) for it in taken]
    tell = on_progress or (lambda done, total: None)
    seeds = [content_digest(it.file) for it in taken]
    for done, (path, record) in enumerate(records.items(), 1):
        parts = []
        for it, own, blocks, digest in zip(taken, adapters, factors, seeds, strict=True):
            weight = it.weight * blocks.get(path, 1.0)
            if weight == 0:
                continue
            delta = Delta.zero(record.shape) if path not in own else _delta(it, own[path], path, record, weights)
            parts.append(Part(delta, weight, _seed(options.seed, digest, path)))
        if parts:
            parts = balanced(parts) if options.balance else parts
            yield path, FUSIONS[options.method](parts, options.share)
        tell(done, len(records))


def weighted(ingredients: Sequence[Ingredient]) -> list[Ingredient]:
    """Those that take part: of a weight other than 0. Raises ConfigError if there are none."""
    taken = [it for it in ingredients if it.weight != 0]
    if not taken:
        raise ConfigError("all adapters have the weight 0: give at least one another")
    return taken


@torch.no_grad()
def as_file(
    fused: Mapping[str, Delta] | Iterator[tuple[str, Delta]],
    records: Mapping[str, LayerRecord],
    rank: int | None,
    *,
    whole: bool = False,
    word: AdapterFile | None = None,
    **description: Any,
) -> Fused:
    """The changes as one LoRA file: exact factors where there are small ones, else the best of at most `rank`.

    rank: the most that any layer may have; without it exact factors stay and other layers have RANK. whole: keep all
    of every layer, at any rank. word: the adapter whose embeddings of a new word go along. description: `base`,
    `trigger`, `class_word`, `training`, and so on of the AdapterFile.
    """
    factors, energy = {}, {}
    for path, delta in dict(fused).items():
        up, down, energy[path] = delta.up, delta.down, 1.0
        if not whole and (rank is not None or delta.whole is not None) and delta.rank > (rank or RANK):
            u, s, vh = delta.svd()
            kept = min(len(s), rank or RANK)
            total = float(s.square().sum())
            energy[path] = 1 - float(s[kept:].square().sum()) / total if total else 1.0
            root = s[:kept].sqrt()
            up, down = u[:, :kept] * root, root[:, None] * vh[:kept]
        if not up.shape[1]:  # a layer whose changes are all 0; LoRA has no rank 0
            up, down = torch.zeros(delta.shape[0], 1), torch.zeros(1, delta.shape[1])
        factors[path] = (up, down)
    lora = Assembled.of(factors, records)
    embeddings = {} if word is None else dict(word.embeddings)
    vectors = {} if word is None else {f"embedding.{part}": word.tensors[f"embedding.{part}"] for part in embeddings}
    file = AdapterFile(
        method="lora",
        config=lora.config,
        layers=lora.layers,
        embeddings=embeddings,
        tensors={**lora.tensors, **vectors},
        **description,
    )
    return Fused(file, energy, {path: up.shape[1] for path, (up, _) in factors.items()})


def common_layers(ingredients: Sequence[Ingredient]) -> dict[str, LayerRecord]:
    """The layers of all of them. Raises IncompatibleModelError where two were trained on different bases."""
    found: dict[str, tuple[str, LayerRecord]] = {}
    for it in ingredients:
        for path, record in it.file.layers.items():
            first, known = found.setdefault(path, (it.name, record))
            if known.shape != record.shape:
                sizes = ["x".join(map(str, shape)) for shape in (known.shape, record.shape)]
                raise IncompatibleModelError(
                    f"{first} and {it.name} are for different bases: the layer {path} is {sizes[0]} in one, "
                    f"{sizes[1]} in the other"
                )
            if known.fingerprint is None:
                found[path] = (it.name, record)
            elif record.fingerprint is not None and not _same(record.fingerprint, known.fingerprint):
                raise IncompatibleModelError(
                    f"{first} and {it.name} were trained on different bases: the layer {path} had other weights; "
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
    it: Ingredient, adapter: Adapter, path: str, record: LayerRecord, weights: Mapping[str, Tensor] | None
) -> Delta:
    if weights is None and adapter.uses_weight:
        raise ConfigError(f"the change of {it.name} ({it.file.method}) depends on the base's weights: give the base")
    weight = torch.empty(record.shape, device="meta") if weights is None else weights[path]
    return Delta.of_adapter(adapter, weight)


def _seed(seed: int, digest: str, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {digest} {path}".encode()).digest()[:8], "big") >> 1
