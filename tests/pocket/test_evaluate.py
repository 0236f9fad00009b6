"""The fixed prompts of the base's evaluation, and how readings are scored."""

from collections import Counter

from dreamtune.pocket.evaluate import PAIRS, SINGLES, Prompt, Wanted, fixed_prompts, score
from dreamtune.pocket.evaluators import Found, Reading
from dreamtune.pocket.world import CLASSES, vocabulary

BOX = (0.1, 0.1, 0.4, 0.4)


def found(cls: str, color: str, pattern: str = "plain", hat: str | None = None, score: float = 0.9) -> Found:
    return Found(cls, color, pattern, None, hat, BOX, score)


def test_prompts_are_fixed_balanced_and_in_the_vocabulary() -> None:
    prompts = fixed_prompts(CLASSES[:6])
    assert prompts == fixed_prompts(CLASSES[:6])
    assert Counter(len(p.subjects) for p in prompts) == {1: SINGLES, 2: PAIRS}
    assert {w for p in prompts for w in p.text.split()} <= set(vocabulary())
    assert all(p.subjects[0].cls != p.subjects[1].cls for p in prompts if len(p.subjects) == 2)


def test_each_share_counts_only_prompts_that_ask_for_it() -> None:
    prompts = [
        Prompt("a striped red cat in the snow", "snow", (Wanted("cat", "red", "striped"),)),
        Prompt("a blue dog wearing a red hat at night", "night", (Wanted("dog", "blue", None, "red"),)),
    ]
    readings = [
        Reading("snow", (found("cat", "red", "spotted"),)),
        Reading("night", (found("cat", "blue", hat="red"), found("car", "red", score=0.6))),
    ]
    assert score(prompts, readings) == {
        "context": 1.0,
        "class": 0.5,
        "color": 1.0,
        "class_and_color": 0.5,
        "one_subject": 0.5,
        "pattern": 0.0,
        "hat": 1.0,
    }


def test_pairs_are_scored_by_presence_side_and_colour() -> None:
    prompt = Prompt("...", "beach", (Wanted("cat", "red"), Wanted("dog", "blue")))
    right = Reading("beach", (found("cat", "red"), found("dog", "blue")))
    swapped = Reading("beach", (found("dog", "blue"), found("cat", "red")))
    alone = Reading("beach", (found("cat", "red"),))
    shares = score([prompt] * 3, [right, swapped, alone])
    assert shares["both_present"] == 0.6667
    assert shares["left_right"] == 0.3333
    assert shares["pair_colors"] == 0.3333
