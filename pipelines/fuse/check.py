"""What can be said of a fusion before any base is loaded: whether its settings and files fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dreamtune.errors import ConfigError, IncompatibleModelError
from dreamtune.fusion import MEASURED, FusionOptions, WeightedAdapter, weighted
from dreamtune.models.families import USUAL, Usual
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.prompts import adapter_prompts, usual_captions
from dreamtune.pipelines.fuse.stages import WORDS
from dreamtune.pipelines.output import check_place
from dreamtune.words import same


@dataclass(frozen=True)
class Checked:
    """What settings and files say together."""

    uses: Sequence[AdapterRef]
    """Those of a weight other than 0."""
    ingredients: Sequence[WeightedAdapter]
    """The same for the fusion."""
    options: FusionOptions
    vectors: Mapping[str, Mapping[str, Tensor]]
    """Embeddings of new words, as AdapterFile.vectors has them, of all adapters."""
    reads: bool
    """Whether prompts are read and drawn, see :func:`texts`."""
    remarks: tuple[str, ...]
    """On all files."""


def check(config: FuseConfig, place: Path) -> Checked:
    """Look at all that can be looked at without a base. Raises what fuse does."""
    _check_place(place)
    given = [AdapterRef.load(text) for text in config.adapters]
    uses = [use for use in given if use.strength != 0]

    ingredients = weighted([use.ingredient for use in given])
    return Checked(
        uses=uses,
        ingredients=ingredients,
        options=FusionOptions(config.method, config.density, config.balance, config.seed),
        vectors=_vectors(config, uses),
        reads=texts(config, uses, USUAL["sd1"]) is not None,  # what is wrong with them is so on any base
        remarks=(*one_word(uses), *(it for use in given for it in use.remarks)),
    )


def _check_place(place: Path) -> None:
    if place.suffix != ".safetensors":
        raise ConfigError(f"{place} is to be a file: give it a name that ends in .safetensors")
    if place.exists():
        raise ConfigError(f"{place} is there already: remove it or choose another name")
    check_place(place.parent)


def one_word(uses: Sequence[AdapterRef]) -> list[str]:
    """Remarks on adapters that are called by one word: seeds or checkpoints of one subject, or else a mistake."""
    owners: dict[str, list[AdapterRef]] = {}
    for use in uses:
        for token in dict.fromkeys(token.lower() for token in use.file.tokens):
            owners.setdefault(token, []).append(use)
    return [
        f"{' and '.join(use.path.name for use in found)} are called by the same word {token!r} and count as adapters "
        "of one subject: if they are of several, no prompt can tell them apart; train one again with another token"
        for token, found in owners.items()
        if len(found) > 1
    ]


def reads_prompts(config: FuseConfig) -> bool:
    """Whether what layers get plays a part."""
    return config.method in MEASURED or config.balance == "output"


def texts(config: FuseConfig, uses: Sequence[AdapterRef], usual: Usual) -> tuple[list[list[str]], Sequence[str]] | None:
    """Each adapter's prompts, and captions, where what layers get plays a part; None where it does not.

    usual: of the base, for prompts that are not given.

    Raises ConfigError for texts that are missing or not asked for.
    """
    if not reads_prompts(config):
        given = "prompts" if config.prompts else "captions" if config.captions else None
        if given:
            raise ConfigError(f"{config.method} reads no {given}: leave them out, or use {' or '.join(MEASURED)}")
        return None
    if config.method != WORDS and config.captions:
        raise ConfigError(f"{config.method} reads no captions: leave them out, or use {WORDS}")
    if len(uses) < 2:  # one alone stays as it is, whatever its layers get
        return None
    prompts = adapter_prompts(config.prompts, uses, config.method, usual)
    if config.method != WORDS:
        return prompts, []
    return prompts, config.captions or usual_captions(uses, usual)


def _vectors(config: FuseConfig, uses: Sequence[AdapterRef]) -> dict[str, dict[str, Tensor]]:
    """The embeddings of new words that go along. Raises ConfigError and IncompatibleModelError where they cannot."""
    found: dict[str, dict[str, Tensor]] = {}
    owners: dict[str, AdapterRef] = {}
    for use in uses:
        for word, own in use.file.vectors.items():
            if config.format == "checkpoint":
                raise ConfigError(
                    f"the embeddings of {word!r} cannot be in a checkpoint: fuse to an adapter, or export "
                    f"{use.path.name} with the format embedding and train without a new word"
                )
            for known, owner in owners.items():
                if same(known, word):
                    raise ConfigError(
                        f"{owner.path.name} and {use.path.name} both have embeddings of {word!r}, and one word has "
                        "those of one: train one again with another token"
                    )
                if _widths(found[known]) != _widths(own):
                    raise IncompatibleModelError(
                        f"the embeddings of {known!r} in {owner.path.name} and of {word!r} in {use.path.name} are for "
                        "different bases: fuse adapters of one base"
                    )
            found[word], owners[word] = own, use
    return found


def _widths(vectors: Mapping[str, Tensor]) -> dict[str, int]:
    """Text encoder -> width of a word's embeddings there."""
    return {part: tensor.shape[1] for part, tensor in vectors.items()}
