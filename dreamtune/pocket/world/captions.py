"""What a scene is called: captions in several wordings, with some attributes left out, as people do."""

from __future__ import annotations

from random import Random

from .scene import CLASSES, COLORS, CONTEXTS, Placement, Scene, Subject

IDENTIFIERS = ("sks", "zwx", "qpl", "vrk", "xob", "ohw", "tuv", "jmz")
"""Nonsense words that some captions put before the class. They mean nothing, so that "a sks cat" is just a cat."""

IDENTIFIER_SHARE = 0.3
"""So often, because the text encoder must know each of them and the UNet must have learned to pass over them."""


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def phrase(rng: Random, subject: Subject, placement: Placement | None = None, detail: float = 0.65) -> str:
    """A noun phrase for `subject`; each attribute is named with probability `detail`."""
    words: list[str] = []
    tail: list[str] = []
    if placement is not None and placement.size != "mid" and rng.random() < 0.6:
        words.append(placement.size)
    if subject.pattern != "plain" and rng.random() < detail:
        if rng.random() < 0.5:
            words.append(subject.pattern)
        else:
            noun = "stripes" if subject.pattern == "striped" else "spots"
            tail.append(f"with {subject.pattern_color} {noun}")
    if rng.random() < IDENTIFIER_SHARE:
        words.append(rng.choice(IDENTIFIERS))
    if rng.random() < detail:
        words.append(subject.color)
    words.append(subject.cls)
    if subject.hat is not None and rng.random() < 0.8:
        color = subject.hat.color
        tail.append(f"wearing {_article(color)} {color} hat" if rng.random() < 0.75 else "wearing a hat")
    return " ".join([_article(words[0]), *words, *([" and ".join(tail)] if tail else [])])


def caption(rng: Random, scene: Scene) -> str:
    """A caption of `scene`: true, in one of several wordings, not always complete."""
    place = f" {CONTEXTS[scene.context]}" if rng.random() < 0.9 else ""
    prefix = "a photo of " if rng.random() < 0.3 else ""
    if len(scene.subjects) == 1:
        placement = scene.placements[0]
        text = phrase(rng, scene.subjects[0], placement)
        if placement.side != "center" and rng.random() < 0.5:
            text += f" on the {placement.side}"
        return prefix + text + place
    first, second = (phrase(rng, s, detail=0.55) for s in scene.subjects)
    wording = rng.random()
    if wording < 0.35:
        text = f"{first} on the left and {second} on the right"
    elif wording < 0.5:
        text = f"{second} on the right and {first} on the left"
    elif wording < 0.75:
        text = f"{first} and {second}"
    else:
        text = f"{second} {'and' if rng.random() < 0.5 else 'next to'} {first}"
    return prefix + text + place


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted: each gets a token of its own."""
    words = {
        *[
            "a",
            "an",
            "photo",
            "of",
            "the",
            "and",
            "on",
            "left",
            "right",
            "next",
            "to",
            "in",
            "at",
            "with",
            "wearing",
            "hat",
            "small",
            "big",
        ],
        *["striped", "spotted", "stripes", "spots", "plain", "picture", "drawing", "two", "toy"],
        *CLASSES,
        *COLORS,
        *IDENTIFIERS,
    }
    for place in CONTEXTS.values():
        words.update(place.split())
    return sorted(words)
