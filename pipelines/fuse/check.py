"""Checks of a fusion that need no base: whether its settings and files fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dreamtune.errors import ConfigError, IncompatibleModelError
from dreamtune.fusion import FusionOptions, WeightedAdapter, weighted
from dreamtune.models.families import USUAL, Usual
from dreamtune.names import RECORDED
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.prompts import adapter_prompts, usual_captions
from dreamtune.pipelines.fuse.stages import WORDS
from dreamtune.pipelines.output import check_new_file
from dreamtune.words import same


@dataclass(frozen=True)
class Checked:
    """Settings and files that were found to fit together."""

    uses: Sequence[AdapterRef]
    """Those of a weight other than 0."""
    ingredients: Sequence[WeightedAdapter]
    """The same for the fusion."""
    options: FusionOptions
    vectors: Mapping[str, Mapping[str, Tensor]]
    """Embeddings of the new tokens of all adapters, as in AdapterFile.vectors."""
    reads: bool
    """Whether prompts are encoded and images generated, see :func:`texts`."""
    remarks: tuple[str, ...]
    """On all files."""


def check(config: FuseConfig, place: Path) -> Checked:
    """Check everything that needs no base. Raises what fuse does."""
    check_new_file(place)
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


def one_word(uses: Sequence[AdapterRef]) -> list[str]:
    """Remarks on adapters that share a token: seeds or checkpoints of one subject, or a mistake."""
    owners: dict[str, list[AdapterRef]] = {}
    for use in uses:
        for token in dict.fromkeys(token.lower() for token in use.file.tokens):
            owners.setdefault(token, []).append(use)
    return [
        f"{' and '.join(use.path.name for use in found)} share the token {token!r} and count as adapters of one "
        "subject: if they are different subjects, no prompt can tell them apart; retrain one with another token"
        for token, found in owners.items()
        if len(found) > 1
    ]


def reads_prompts(config: FuseConfig) -> bool:
    """Whether the fusion needs the layers' inputs."""
    return config.method in RECORDED or config.balance == "output"


def texts(config: FuseConfig, uses: Sequence[AdapterRef], usual: Usual) -> tuple[list[list[str]], Sequence[str]] | None:
    """Each adapter's prompts, and captions, if the fusion needs the layers' inputs; None if it does not.

    usual: the base's usual prompts, for those that are not set.

    Raises ConfigError for texts that are missing or not used.
    """
    if not reads_prompts(config):
        given = "prompts" if config.prompts else "captions" if config.captions else None
        if given:
            raise ConfigError(f"{config.method} uses no {given}: omit them, or use {' or '.join(RECORDED)}")
        return None
    if config.method != WORDS and config.captions:
        raise ConfigError(f"{config.method} uses no captions: omit them, or use {WORDS}")
    if len(uses) < 2:  # one alone stays as it is, whatever its layers get
        return None
    prompts = adapter_prompts(config.prompts, uses, config.method, usual)
    if config.method != WORDS:
        return prompts, []
    return prompts, config.captions or usual_captions(uses, usual)


def _vectors(config: FuseConfig, uses: Sequence[AdapterRef]) -> dict[str, dict[str, Tensor]]:
    """The embeddings of new tokens to fuse. Raises ConfigError and IncompatibleModelError if they cannot be fused."""
    found: dict[str, dict[str, Tensor]] = {}
    owners: dict[str, AdapterRef] = {}
    for use in uses:
        for word, own in use.file.vectors.items():
            if config.format == "checkpoint":
                raise ConfigError(
                    f"the embeddings for {word!r} cannot be stored in a checkpoint: fuse into an adapter, or export "
                    f"{use.path.name} with the format embedding and train without pivotal"
                )
            for known, owner in owners.items():
                if same(known, word):
                    raise ConfigError(
                        f"{owner.path.name} and {use.path.name} both have embeddings for {word!r}, but a token can "
                        "have only one set: retrain one with another token"
                    )
                if _widths(found[known]) != _widths(own):
                    raise IncompatibleModelError(
                        f"the embeddings for {known!r} in {owner.path.name} and for {word!r} in {use.path.name} are of "
                        "different bases: fuse adapters of one base"
                    )
            found[word], owners[word] = own, use
    return found


def _widths(vectors: Mapping[str, Tensor]) -> dict[str, int]:
    """Text encoder -> width of a token's embeddings there."""
    return {part: tensor.shape[1] for part, tensor in vectors.items()}
