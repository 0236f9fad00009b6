"""What the user should know of prompts before pictures are drawn: words of subjects that are missing or not read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from dreamtune.pipelines.adapter_use import AdapterUse
from dreamtune.pipelines.generate_config import GenerateConfig
from dreamtune.pipelines.regions import RegionUse
from dreamtune.words import holds, same

if TYPE_CHECKING:
    from dreamtune.models import Base


def prompt_remarks(
    config: GenerateConfig, adapters: Sequence[AdapterUse], regions: Sequence[RegionUse], base: Base
) -> list[str]:
    """Remarks on the prompts of a call, for `adapters` of the whole picture and those of regions."""
    found = _missing_triggers(config, adapters)
    for prompt in config.prompts:
        found += too_long(prompt, adapters, base)
    found += too_long(config.negative_prompt, adapters, base, name="the negative prompt")
    for number, region in enumerate(regions, 1):  # which is read with its own adapters alone
        found += too_long(region.prompt, region.uses, base, name=f"the prompt of region {number}")
    return [*found, *_same_words(adapters)]


def too_long(
    prompt: str, uses: Iterable[AdapterUse], base: Base, *, name: str | None = None, token: str | None = None
) -> list[str]:
    """At most one remark: on a prompt of which `base` does not read all while `uses` are on it.

    name: what the prompt is called, if not by how it begins. token: the word for the subject, if not the adapters' own.
    """
    from dreamtune.data.words import brief, length_remarks

    on = [use for use in uses if use.strength]
    new = [word for use in on if (word := use.file.word())]
    words = {word.word: range(len(next(iter(word.vectors.values())))) for word in new}
    tokens = [token] if token else [use.file.trigger for use in on if use.file.trigger]
    remarks = length_remarks(name or f"the prompt {brief(prompt)!r}", prompt, base.tokenizer, tokens, words)
    return [str(remark) for remark in remarks]


def _missing_triggers(config: GenerateConfig, adapters: Sequence[AdapterUse]) -> list[str]:
    """A remark on each adapter whose trigger no prompt holds: its subject would not appear."""
    return [
        f"no prompt holds {adapter.file.trigger!r}, the word for the subject of {adapter.path.name}: "
        f"write for example 'a {adapter.file.trigger} {adapter.file.class_word}'"
        for adapter in adapters
        if adapter.file.trigger and not any(holds(prompt, adapter.file.trigger) for prompt in config.prompts)
    ]


def _same_words(adapters: Sequence[AdapterUse]) -> list[str]:
    """A remark on each two adapters whose subjects no prompt can tell apart."""
    return [
        f"{first.path} and {second.path} both have the word {first.file.trigger!r}: no prompt can tell their subjects "
        "apart; give each a region, or train one with another token"
        for first, second in combinations(adapters, 2)
        if first.file.trigger and same(first.file.trigger, second.file.trigger) and first.digest != second.digest
    ]
