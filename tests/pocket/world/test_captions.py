"""Captions never contradict their scene: each is parsed back and compared with it."""

import itertools
import re
from collections import Counter
from random import Random

import pytest

from dreamtune.pocket.world import (
    CLASSES,
    COLORS,
    CONTEXTS,
    IDENTIFIERS,
    Scene,
    Subject,
    caption,
    random_scene,
    render,
    vocabulary,
)

COLOR, CLASS, NONSENSE, PLACE = (
    f"(?:{'|'.join(words)})" for words in (COLORS, CLASSES, IDENTIFIERS, CONTEXTS.values())
)
NOUN = (
    rf"an?(?: (?P<size_N>small|big))?(?: (?P<pattern_N>striped|spotted))?(?: (?P<identifier_N>{NONSENSE}))?"
    rf"(?: (?P<color_N>{COLOR}))? (?P<cls_N>{CLASS})(?: with (?P<marks_N>{COLOR}) (?P<noun_N>stripes|spots))?"
    rf"(?P<hat_N>(?: and)? wearing (?:an? (?P<hatcolor_N>{COLOR})|a) hat)?(?: on the (?P<side_N>left|right))?"
)
FIRST, SECOND = NOUN.replace("_N", "_1"), NOUN.replace("_N", "_2")
CAPTION = re.compile(rf"(?:a photo of )?{FIRST}(?: (?:and|next to) {SECOND})?(?: (?P<place>{PLACE}))?")
SCENES = [random_scene(Random(i)) for i in range(600)]


def parse(text: str) -> tuple[list[dict[str, str]], str | None]:
    """What a caption claims of each subject it names, and the place."""
    match = CAPTION.fullmatch(text)
    assert match, f"not a caption: {text!r}"
    found = [(*key.split("_"), value) for key, value in match.groupdict().items() if value and key != "place"]
    claims = [{key: value for key, number, value in found if number == wanted} for wanted in ("1", "2")]
    return [claim for claim in claims if claim], match["place"]


def holds(claim: dict[str, str], subject: Subject, size: str, side: str) -> bool:
    """Whether everything that is claimed is so."""
    hat = subject.hat
    pattern = {"stripes": "striped", "spots": "spotted"}.get(claim.get("noun", ""), claim.get("pattern"))
    return all(
        (
            claim["cls"] == subject.cls,
            claim.get("color", subject.color) == subject.color,
            pattern in (None, subject.pattern),
            claim.get("marks", subject.pattern_color) == subject.pattern_color,
            claim.get("size", size) == size,
            claim.get("side", side) == side,
            "hat" not in claim or hat is not None,
            hat is None or claim.get("hatcolor", hat.color) == hat.color,
        )
    )


def is_true(text: str, scene: Scene) -> bool:
    """Whether some assignment of the noun phrases to the subjects makes the caption true."""
    claims, place = parse(text)
    if place not in (None, CONTEXTS[scene.context]) or len(claims) != len(scene.subjects):
        return False
    shown = list(zip(scene.subjects, scene.placements, strict=True))
    return any(
        all(holds(claim, s, p.size, p.side) for claim, (s, p) in zip(claims, order, strict=True))
        for order in itertools.permutations(shown)
    )


def test_captions_are_true() -> None:
    for i, scene in enumerate(SCENES):
        for text in (caption(Random(f"{i} {k}"), scene) for k in range(5)):
            assert is_true(text, scene), (text, scene)


@pytest.mark.parametrize("lie", ["a green robot at night", "a blue cat at night", "a spotted blue robot in the snow"])
def test_a_lie_would_be_noticed(lie: str) -> None:
    rng = Random(0)
    scene = next(
        s
        for s in (random_scene(rng, context="night", pair_share=0) for _ in itertools.count())
        if s.subjects[0].cls == "robot" and s.subjects[0].color == "blue"
    )
    assert not is_true(lie, scene)


def test_articles_fit() -> None:
    for i, scene in enumerate(SCENES):
        words = caption(Random(i), scene).split()
        for article, word in itertools.pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), " ".join(words)


def test_sides_are_where_the_subjects_are_seen() -> None:
    for scene in SCENES[:150]:
        for placement, (x0, _, x1, _) in zip(scene.placements, render(scene).boxes, strict=True):
            middle = (x0 + x1) / 2
            assert {"left": middle < 0.5, "right": middle > 0.5, "center": 0.3 < middle < 0.7}[placement.side]


def test_every_word_is_in_the_vocabulary() -> None:
    said = {word for i, scene in enumerate(SCENES) for word in caption(Random(i), scene).split()}
    assert said <= set(vocabulary())
    assert {*CLASSES, *COLORS, *IDENTIFIERS} <= set(vocabulary())
    assert vocabulary() == sorted(set(vocabulary()))


def test_identifiers_are_spread_evenly_over_the_world() -> None:
    """They must mean nothing, so that a training can give one of them a meaning."""
    claims = [c for i, s in enumerate(SCENES) for k in range(5) for c in parse(caption(Random(f"{i} {k}"), s))[0]]
    named = Counter(claim["identifier"] for claim in claims if "identifier" in claim)
    assert set(named) == set(IDENTIFIERS)
    assert 0.26 < named.total() / len(claims) < 0.34
    assert max(named.values()) < 2 * min(named.values())


def test_captions_differ_in_wording_and_detail() -> None:
    texts = {caption(Random(k), SCENES[0]) for k in range(40)}
    assert len(texts) >= 8
