"""What a fusion asks the base to read and draw: prompts of each adapter, and captions without any subject."""

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
            known = " nor ".join(repr(token) for use in uses for token in use.file.tokens)
            raise ConfigError(f"the prompt {prompt!r} names neither {known}: write {{token}}, which is each of them")
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
    """The prompt with the words of each subject of an adapter; as it is if it leaves none out."""
    pairs = [it for it in use.file.subjects if it[0]] or [(use.file.token, use.file.class_word)]
    if "{token}" not in prompt:
        pairs = [next((it for it in pairs if it[0] and holds(prompt, it[0])), pairs[0])]
    return [prompt.replace("{token}", token).replace("{class}", kind) for token, kind in pairs]


def _usual(use: AdapterRef, method: str, usual: Usual) -> list[str]:
    """Its subjects in turns, so that the first few prompts are of them all."""
    named = [it for it in use.file.subjects if it[0]]
    if not named:
        raise ConfigError(
            f"{use.path.name} does not tell the word for its subject, and {method} reads prompts with it: give prompts"
        )
    by_subject = [[usual.prompt(*it), *_placed(" ".join(filter(None, it)))] for it in named]
    return [prompt for prompts in zip(*by_subject, strict=True) for prompt in prompts]


def _placed(thing: str) -> list[str]:
    return [f"a {thing} {place}" for place in PLACES]
