"""Texts that a fusion records: prompts of each adapter, and captions without any subject."""

from __future__ import annotations

from collections.abc import Sequence

from dreamtune.errors import ConfigError
from dreamtune.evaluation.prompts import PLACES
from dreamtune.models.families import Usual
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.words import holds

_THINGS = ("man", "woman", "child", "bird", "horse", "house", "tree", "flower", "car", "boat", "table", "cup")
"""Of captions, besides the adapters' own classes: things that are no subject."""


def adapter_prompts(prompts: Sequence[str], uses: Sequence[AdapterRef], method: str, usual: Usual) -> list[list[str]]:
    """For each adapter, the prompts that name its subject; without any prompts, the base's usual ones.

    {token} and {class} stand for those of each adapter. A prompt without any adapter's token is for the adapters that
    do not record theirs. Raises ConfigError for a prompt without an adapter, and for an adapter without a prompt.
    """
    if not prompts:
        return [_usual(use, method, usual) for use in uses]
    found: list[list[str]] = [[] for _ in uses]
    for prompt in prompts:
        owners = _owners(prompt, uses)
        if not owners:
            known = ", ".join(repr(token) for use in uses for token in use.file.tokens)
            raise ConfigError(
                f"the prompt {prompt!r} contains none of the tokens {known}: add one, or {{token}} for each of them"
            )
        for number in owners:
            found[number] += dict.fromkeys(_filled(prompt, uses[number]))
    for use, own in zip(uses, found, strict=True):
        if not own:
            words = f" {' or '.join(map(repr, use.file.tokens))}," if use.file.tokens else ""
            raise ConfigError(f"no prompt names{words} the subject of {use.path.name}: add one that does")
    return found


def usual_captions(uses: Sequence[AdapterRef], usual: Usual) -> list[str]:
    """The adapters' classes, and some other things, in PLACES and alone."""
    classes = [kind for use in uses for _, kind in use.file.subjects if kind]
    things = dict.fromkeys([*classes, *_THINGS])
    return [caption for thing in things for caption in (usual.prompt("", thing), *_placed(thing))]


def _owners(prompt: str, uses: Sequence[AdapterRef]) -> list[int]:
    """Numbers of the adapters that a prompt is for."""
    words = [use.file.tokens for use in uses]
    if "{token}" in prompt:
        return [number for number, tokens in enumerate(words) if tokens]
    named = [number for number, tokens in enumerate(words) if any(holds(prompt, token) for token in tokens)]
    return named or [number for number, tokens in enumerate(words) if not tokens]


def _filled(prompt: str, use: AdapterRef) -> list[str]:
    """The prompt filled in for each subject of an adapter; unchanged if it has no placeholders."""
    pairs = [it for it in use.file.subjects if it[0]] or [(use.file.token, use.file.class_word)]
    if "{token}" not in prompt:
        pairs = [next((it for it in pairs if it[0] and holds(prompt, it[0])), pairs[0])]
    return [prompt.replace("{token}", token).replace("{class}", kind) for token, kind in pairs]


def _usual(use: AdapterRef, method: str, usual: Usual) -> list[str]:
    """Its subjects in turns, so that the first few prompts are of them all."""
    named = [it for it in use.file.subjects if it[0]]
    if not named:
        raise ConfigError(
            f"{use.path.name} does not record its token, which {method} needs for its own prompts: set prompts"
        )
    by_subject = [[usual.prompt(*it), *_placed(" ".join(filter(None, it)))] for it in named]
    return [prompt for prompts in zip(*by_subject, strict=True) for prompt in prompts]


def _placed(thing: str) -> list[str]:
    return [f"a {thing} {place}" for place in PLACES]
