"""Remarks on prompts before images are generated: tokens of subjects that are missing or cut off."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from torch import Tensor

from dreamtune.data.words import brief, length_remarks, syntax_remarks
from dreamtune.generation.masks import overlaps
from dreamtune.models import Base
from dreamtune.models.emphasis import Emphasis
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.generate.regions import Painted, RegionUse
from dreamtune.words import holds, same


def prompt_remarks(
    config: GenerateConfig, adapters: Sequence[AdapterRef], regions: Sequence[RegionUse], base: Base
) -> list[str]:
    """Remarks on the prompts of a call, for `adapters` of the whole image and those of regions.

    Raises ConfigError for prompt weights that are too large.
    """
    found = [remark for use in adapters for remark in missing_word(config.prompts, use)]
    named = [(f"the prompt {brief(prompt)!r}", prompt, adapters) for prompt in config.prompts]
    named.append(("the negative prompt", config.negative_prompt, adapters))
    for number, region in enumerate(regions, 1):  # which is read with its own adapters alone
        named.append((f"the prompt of region {number}", region.prompt, region.uses))
    for name, prompt, uses in named:
        text = Emphasis.of(prompt).text if config.prompt_weights else prompt
        found += too_long(text, uses, base, name=name)
        found += map(str, syntax_remarks(name, prompt, drawing=True, weights=config.prompt_weights))
    return [*found, *_same_words(adapters)]


def region_remarks(regions: Sequence[RegionUse], masks: Sequence[Tensor], size: int) -> list[str]:
    """Remarks on the regions of an image of `size` pixels."""
    found = []
    for region in regions:
        if isinstance(region.place, Painted) and region.place.image.size != (size, size):
            width, height = region.place.image.size
            found.append(
                f"the mask {region.place.path.name} is {width}x{height}, the image {size}x{size}: the mask is resized"
            )
    for first, second, share in overlaps(masks):
        found.append(
            f"the regions {first + 1} and {second + 1} overlap on {max(share, 0.01):.0%} of the image: they are "
            "averaged there"
        )
    for number, region in enumerate(regions, 1):
        for use in region.uses:
            found += missing_word([region.prompt], use, f"the prompt of region {number} does not contain")
    return found


def too_long(
    prompt: str, uses: Iterable[AdapterRef], base: Base, *, name: str | None = None, token: str | None = None
) -> list[str]:
    """At most one remark: on a prompt that is too long for `base` while `uses` are on it.

    name: of the prompt, by default its beginning. token: of the subject, by default the adapters' own.
    """
    on = [use for use in uses if use.strength]
    new = [it for use in on for it in use.file.new_tokens.items()]
    words = {word: range(next(iter(sizes.values()))[0]) for word, sizes in new}
    tokens = [token] if token else [it for use in on for it in use.file.tokens]
    remarks = length_remarks(name or f"the prompt {brief(prompt)!r}", prompt, base.tokenizer, tokens, words)
    return [str(remark) for remark in remarks]


def missing_word(prompts: Sequence[str], use: AdapterRef, where: str = "no prompt contains") -> list[str]:
    """A remark if no prompt contains any token of an adapter: none of its subjects would appear."""
    tokens = use.file.tokens
    if not tokens or any(holds(prompt, token) for prompt in prompts for token in tokens):
        return []
    names = " or ".join(map(repr, tokens))
    what = "the token" if len(tokens) == 1 else "the tokens"
    example = " and ".join(f"a {token} {kind}".strip() for token, kind in use.file.subjects if token)
    return [f"{where} {names}, {what} of {use.path.name}: use e.g. '{example}'"]


def _same_words(adapters: Sequence[AdapterRef]) -> list[str]:
    """A remark on each pair of adapters whose subjects no prompt can tell apart."""
    found = []
    for first, second in combinations(adapters, 2):
        shared = [word for word in first.file.tokens if any(same(word, other) for other in second.file.tokens)]
        if shared and first.digest != second.digest:
            words = f"the token {shared[0]!r}" if len(shared) == 1 else f"the tokens {', '.join(map(repr, shared))}"
            found.append(
                f"{first.path} and {second.path} both use {words}: if they are different subjects, no prompt can tell "
                "them apart; give each its own region, or retrain one with another token"
            )
    return found
