"""From several adapter files to one adapter file, or to a base with all of them in its weights."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.pipelines.adapter_use import AdapterUse, base_name
from dreamtune.pipelines.files import check_place, complete
from dreamtune.pipelines.fuse_config import FuseConfig
from dreamtune.pipelines.fuse_output import description, with_energy, write_checkpoint
from dreamtune.pipelines.fuse_prompts import adapter_prompts, usual_captions
from dreamtune.pipelines.fuse_recording import Recorder
from dreamtune.pipelines.fuse_stages import WORDS, Stages
from dreamtune.pipelines.generate_config import SAMPLING
from dreamtune.pipelines.progress import OnProgress, Printer, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from dreamtune.adapters import AdapterFile
    from dreamtune.fusion import FusionOptions, Ingredient
    from dreamtune.models import Base


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
    checked = check(config, place)
    uses, taken, texts, word = checked.uses, checked.ingredients, checked.texts, checked.word

    from dreamtune.fusion import as_file, common_layers, fuse_layers

    records = common_layers(taken)
    model = _base(config, uses, to_record=texts is not None)
    weights = None if model is None else _weights(taken, model)
    recorder = None
    if texts is None:
        layers = fuse_layers(taken, checked.options, weights, lambda done, total: tell(Progress("fuse", done, total)))
    else:
        assert model is not None and weights is not None
        recorder = Recorder(model, records, config.steps, SAMPLING[model.family][1], config.seed)
        layers = Stages(taken, checked.options, weights, *texts, recorder, tell).run()
    fused = as_file(
        layers, records, config.rank, whole=config.format == "checkpoint", word=word, **description(config, uses, word)
    )
    with complete(place, AdapterFileError) as target:
        if config.format == "adapter":
            with_energy(fused).save(target)
        else:
            assert model is not None
            source = Path(config.base or base_name(uses)).expanduser()
            write_checkpoint(fused.file, model, source, target, config.any_base)
    if recorder is not None:
        recorder.clear()
    return FuseResult(
        out=place,
        method=config.method,
        ranks=dict(fused.ranks) if config.format == "adapter" else {},
        energy=dict(fused.energy),
        remarks=checked.remarks,
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True)
class Checked:
    """What settings and files say together."""

    uses: Sequence[AdapterUse]
    """Those of a weight other than 0."""
    ingredients: Sequence[Ingredient]
    """The same for the fusion."""
    options: FusionOptions
    word: AdapterFile | None
    texts: tuple[list[list[str]], Sequence[str]] | None
    remarks: tuple[str, ...]
    """On all files."""


def check(config: FuseConfig, place: Path) -> Checked:
    """Look at all that can be looked at without a base. Raises what :func:`fuse` does."""
    _check_place(place)
    given = [AdapterUse.load(text) for text in config.adapters]
    uses = [use for use in given if use.strength != 0]

    from dreamtune.fusion import FusionOptions, weighted

    ingredients = weighted([use.ingredient for use in given])
    _check_triggers(uses)
    return Checked(
        uses=uses,
        ingredients=ingredients,
        options=FusionOptions(config.method, config.density, config.balance, config.seed),
        word=_word(config, uses),
        texts=_texts(config, uses),
        remarks=tuple(it for use in given for it in use.remarks),
    )


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


def _texts(config: FuseConfig, uses: Sequence[AdapterUse]) -> tuple[list[list[str]], Sequence[str]] | None:
    """Each adapter's prompts, and captions, where what layers get plays a part; None where it does not.

    Raises ConfigError for texts that are missing or not asked for.
    """
    from dreamtune.fusion import MEASURED

    if config.method not in MEASURED and config.balance != "output":
        given = "prompts" if config.prompts else "captions" if config.captions else None
        if given:
            raise ConfigError(f"{config.method} reads no {given}: leave them out, or use {' or '.join(MEASURED)}")
        return None
    if config.method != WORDS and config.captions:
        raise ConfigError(f"{config.method} reads no captions: leave them out, or use {WORDS}")
    if len(uses) < 2:  # one alone stays as it is, whatever its layers get
        return None
    prompts = adapter_prompts(config.prompts, uses, config.method)
    if config.method != WORDS:
        return prompts, []
    return prompts, config.captions or usual_captions(uses)


def _base(config: FuseConfig, uses: Sequence[AdapterUse], *, to_record: bool) -> Base | None:
    """The base, if it is needed, and certain to be one that all adapters fit; on the CPU unless it is to draw."""
    dependent = any(adapter.uses_weight for use in uses for adapter in use.file.adapters().values())
    if config.format == "adapter" and config.base is None and not dependent and not to_record:
        return None
    from dreamtune.models import load_base

    name = base_name(uses) if config.base is None else config.base
    if config.format == "checkpoint" and not Path(name).expanduser().is_file():
        raise ConfigError(
            f"{name} is no single file to write a changed copy of: give a .safetensors checkpoint as base"
        )
    base = load_base(name, config.device if to_record else "cpu")
    for use in uses:
        use.check(base, config.any_base)
    return base


def _weights(taken: Sequence[Ingredient], base: Base) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for it in taken:
        weights |= it.file.weights(base.parts)
    return weights


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
