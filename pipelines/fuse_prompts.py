"""What a fusion asks the base to read and draw: prompts of each adapter, and captions without any subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreamtune.errors import ConfigError
from dreamtune.evaluation.prompts import PLACES
from dreamtune.models.families import Usual
from dreamtune.words import holds

if TYPE_CHECKING:
    from dreamtune.pipelines.adapter_use import AdapterUse

_THINGS = ("man", "woman", "child", "bird", "horse", "house", "tree", "flower", "car", "boat", "table", "cup")
"""Of captions, besides the adapters' own classes: things that are no subject."""


def adapter_prompts(prompts: Sequence[str], uses: Sequence[AdapterUse], method: str, usual: Usual) -> list[list[str]]:
    """For each adapter those of the prompts that name its subject, or without any those that are usual for the base.

    {token} and {class} stand for the words of each adapter. A prompt that holds no adapter's word is for those that do
    not tell theirs. Raises ConfigError for one that is nobody's, and for an adapter that has none.
    """
    if not prompts:
        return [_usual(use, method, usual) for use in uses]
    found: list[list[str]] = [[] for _ in uses]
    for prompt in prompts:
        owners = _owners(prompt, uses)
        if not owners:
            known = " nor ".join(repr(use.file.trigger) for use in uses)
            raise ConfigError(f"the prompt {prompt!r} names neither {known}: write {{token}}, which is each of them")
        for number in owners:
            file = uses[number].file
            found[number].append(prompt.replace("{token}", file.trigger).replace("{class}", file.class_word))
    for use, own in zip(uses, found, strict=True):
        if not own:
            word = f" {use.file.trigger!r}," if use.file.trigger else ""
            raise ConfigError(f"no prompt names{word} the subject of {use.path.name}: add one that does")
    return found


def usual_captions(uses: Sequence[AdapterUse], usual: Usual) -> list[str]:
    """The adapters' classes, and some other things, in PLACES and alone."""
    things = dict.fromkeys([*(use.file.class_word for use in uses if use.file.class_word), *_THINGS])
    return [caption for thing in things for caption in (usual.prompt("", thing), *_placed(thing))]


def _owners(prompt: str, uses: Sequence[AdapterUse]) -> list[int]:
    """Numbers of the adapters that a prompt is for."""
    triggers = [use.file.trigger for use in uses]
    if "{token}" in prompt:
        return [number for number, word in enumerate(triggers) if word]
    named = [number for number, word in enumerate(triggers) if word and holds(prompt, word)]
    return named or [number for number, word in enumerate(triggers) if not word]


def _usual(use: AdapterUse, method: str, usual: Usual) -> list[str]:
    trigger, kind = use.file.trigger, use.file.class_word
    if not trigger:
        raise ConfigError(
            f"{use.path.name} does not tell the word for its subject, and {method} reads prompts with it: give prompts"
        )
    return [usual.prompt(trigger, kind), *_placed(f"{trigger} {kind}".strip())]


def _placed(thing: str) -> list[str]:
    return [f"a {thing} {place}" for place in PLACES]
