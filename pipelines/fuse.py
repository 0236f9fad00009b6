"""From several adapter files to one adapter file, or to a base with all of them in its weights."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.pipelines.adapter_use import AdapterUse, base_name
from dreamtune.pipelines.files import check_place, complete
from dreamtune.pipelines.progress import OnProgress, Printer, Progress
from dreamtune.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from dreamtune.adapters import AdapterFile
    from dreamtune.fusion import Fused, FusionOptions, Ingredient
    from dreamtune.models import Base


class FuseConfig(Recipe):
    """What to fuse, and how."""

    adapters: tuple[str, ...] = Field(min_length=1)
    """Adapter files as FILE, FILE:WEIGHT or FILE:WEIGHT,BLOCK=FACTOR."""
    method: str = "sum"
    """A name in dreamtune.fusion.FUSIONS."""
    density: float | None = None
    """Share of the numbers that ties, dare, magnitude and knots keep; 0.5 if not set."""
    balance: bool = False
    """First bring all changes of a layer to the geometric mean of their norms."""
    rank: int | None = Field(default=None, ge=1)
    """The most that a layer of the adapter may have; if not set, exact factors stay whole and other layers have 64."""
    format: Literal["adapter", "checkpoint"] = "adapter"
    """An adapter file, or a copy of the base's single file with the result in its weights."""
    base: str | None = None
    """The base, needed where a change depends on its weights and for a checkpoint; by default the adapters' own."""
    any_base: bool = False
    """Use a base with other weights than those that the adapters were trained on."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of what dare draws."""


@dataclass(frozen=True)
class FuseResult:
    """What was written."""

    out: Path
    method: str
    ranks: dict[str, int]
    """Layer path -> rank; empty for a checkpoint."""
    energy: dict[str, float]
    """Layer path -> share of ‖ΔW‖² of the fusion that is kept, 1 where it is exact."""
    remarks: tuple[str, ...]
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether all layers keep all of the fusion."""
        return all(share == 1 for share in self.energy.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {
            "out": str(self.out),
            "exact": self.exact,
            "least_energy_kept": min(self.energy.values()),
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }


def fuse(config: FuseConfig, out: str | Path, on_progress: OnProgress | None = None) -> FuseResult:
    """Write the fusion of `config.adapters` to `out`, which must not exist.

    Raises ConfigError for settings that fit neither each other nor the adapters, AdapterFileError and BaseModelError
    for files that cannot be read or written, IncompatibleModelError for adapters of different bases. Nothing is
    written then.
    """
    if on_progress is None:
        with Printer() as printer:
            return fuse(config, out, printer)
    began, tell = time.monotonic(), on_progress
    place = Path(out).expanduser()
    given, options = check(config, place)
    uses = [use for use in given if use.strength != 0]
    word = _word(config, uses)

    from dreamtune.fusion import Ingredient, as_file, common_layers, fuse_layers, weighted

    ingredients = [Ingredient(use.path.name, use.file, use.strength, use.patterns) for use in given]
    taken = weighted(ingredients)
    records = common_layers(taken)
    model = _base(config, uses)
    weights = None if model is None else _weights(taken, model)
    layers = fuse_layers(ingredients, options, weights, lambda done, total: tell(Progress("fuse", done, total)))
    fused = as_file(
        layers, records, config.rank, whole=config.format == "checkpoint", word=word, **_description(config, uses, word)
    )
    with complete(place, AdapterFileError) as target:
        if config.format == "adapter":
            _with_energy(fused).save(target)
        else:
            assert model is not None
            source = Path(config.base or base_name(uses)).expanduser()
            _write_checkpoint(fused.file, model, source, target, config.any_base)
    return FuseResult(
        out=place,
        method=config.method,
        ranks=dict(fused.ranks) if config.format == "adapter" else {},
        energy=dict(fused.energy),
        remarks=tuple(it for use in given for it in use.remarks),
        seconds=time.monotonic() - began,
    )


def check(config: FuseConfig, place: Path) -> tuple[list[AdapterUse], FusionOptions]:
    """Look at all that can be looked at without a base, and return the adapters. Raises what :func:`fuse` does."""
    _check_place(place)
    given = [AdapterUse.load(text) for text in config.adapters]
    uses = [use for use in given if use.strength != 0]
    _check_triggers(uses)
    _word(config, uses)

    from dreamtune.fusion import FusionOptions

    return given, FusionOptions(config.method, config.density, config.balance, config.seed)


def _check_place(place: Path) -> None:
    if place.suffix != ".safetensors":
        raise ConfigError(f"{place} is to be a file: give it a name that ends in .safetensors")
    if place.exists():
        raise ConfigError(f"{place} is there already: remove it or choose another name")
    check_place(place.parent)


def _check_triggers(uses: Sequence[AdapterUse]) -> None:
    """Two subjects of one word could not be told apart by any prompt."""
    counts = Counter(use.file.trigger.lower() for use in uses if use.file.trigger)
    for trigger, count in counts.items():
        if count > 1:
            names = " and ".join(use.path.name for use in uses if use.file.trigger.lower() == trigger)
            raise ConfigError(
                f"{names} are called by the same word {trigger!r}, so that no prompt could tell them apart: "
                "train one of them again with another token"
            )


def _base(config: FuseConfig, uses: Sequence[AdapterUse]) -> Base | None:
    """The base on the CPU, if it is needed, and certain to be one that all adapters fit."""
    dependent = any(adapter.uses_weight for use in uses for adapter in use.file.adapters().values())
    if config.format == "adapter" and config.base is None and not dependent:
        return None
    from dreamtune.models import load_base

    name = base_name(uses) if config.base is None else config.base
    if config.format == "checkpoint" and not Path(name).expanduser().is_file():
        raise ConfigError(
            f"{name} is no single file to write a changed copy of: give a .safetensors checkpoint as base"
        )
    base = load_base(name, "cpu")
    for use in uses:
        use.check(base, config.any_base)
    return base


def _weights(taken: Sequence[Ingredient], base: Base) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for it in taken:
        weights |= it.file.weights(base.parts)
    return weights


def _description(config: FuseConfig, uses: Sequence[AdapterUse], word: AdapterFile | None) -> dict[str, Any]:
    """What the file says of itself. One trigger stays its own; all stand with the other settings of the fusion."""
    triggers = [use for use in uses if use.file.trigger]
    own = triggers[0].file if len(triggers) == 1 else word
    parts = [
        use.to_dict() | {"method": use.file.method, "trigger": use.file.trigger, "class": use.file.class_word}
        for use in uses
    ]
    settings = config.model_dump(mode="json", include={"method", "density", "balance", "rank", "seed"})
    bases = sorted({use.file.base for use in uses if use.file.base})
    return {
        "base": bases[0] if bases else "",
        "trigger": own.trigger if own else "",
        "class_word": own.class_word if own else "",
        "training": {"fusion": settings | {"adapters": parts}},
    }


def _word(config: FuseConfig, uses: Sequence[AdapterUse]) -> AdapterFile | None:
    """The one adapter whose embeddings of a new word go along. Raises ConfigError where they cannot."""
    found = [use for use in uses if use.file.embeddings]
    if found and config.format == "checkpoint":
        raise ConfigError(
            f"the embeddings of {found[0].file.trigger!r} cannot be in a checkpoint: fuse to an adapter, or export "
            f"{found[0].path.name} with the format embedding and train without a new word"
        )
    if len(found) > 1:
        raise ConfigError(
            f"{' and '.join(use.path.name for use in found)} each have embeddings of a new word, and one file holds "
            "one: generate with both adapters side by side"
        )
    return found[0].file if found else None


def _with_energy(fused: Fused) -> AdapterFile:
    """The file, which says of all layers how much they keep if any does not keep all."""
    if all(share == 1 for share in fused.energy.values()):
        return fused.file
    energy = {path: round(share, 6) for path, share in fused.energy.items()}
    told = fused.file.training["fusion"] | {"energy": energy}
    return replace(fused.file, training={"fusion": told})


def _write_checkpoint(file: AdapterFile, base: Base, source: Path, target: Path, any_base: bool) -> None:
    from dreamtune.pipelines.merged import write_merged

    pristine = {path: weight.clone() for path, weight in file.weights(base.parts).items()}
    for _ in write_merged("checkpoint", file, base, pristine, source, None, target, any_base=any_base):
        pass  # what is read back is compared by export alone
