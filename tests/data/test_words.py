"""A token that already means something is remarked on, a rare one is not."""

import shutil
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from dreamtune.data.buckets import Framing
from dreamtune.data.survey import survey
from dreamtune.data.words import Reading, caption_remarks, length_remarks, token_remarks
from dreamtune.pocket import path
from dreamtune.pocket.world.captions import IDENTIFIERS
from tests.data.mess import noise


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(path() / "tokenizer")


class Large:
    """The vocabulary of a large base, as far as it matters here: the most frequent words first."""

    def get_vocab(self) -> dict[str, int]:
        words = ["photo", "cat", *(f"x{number}" for number in range(40_000)), "sks"]
        return {f"{word}</w>": index for index, word in enumerate(words)}


@pytest.mark.parametrize("token", IDENTIFIERS)
def test_rare_words_are_fine(token: str, tokenizer: CLIPTokenizer) -> None:
    assert token_remarks(token, "dog", tokenizer) == []


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("red house", "several common words (red, house)"),
        ("Photo of the dog", "several common words (photo, of, the, dog)"),
        ("dog", "contains the class word (dog)"),
        ("sksish dog", "contains the class word (dog)"),
    ],
)
def test_common_words_are_remarked(token: str, problem: str, tokenizer: CLIPTokenizer) -> None:
    (remark,) = token_remarks(token, "dog", tokenizer)
    assert problem in remark.problem
    assert repr(token) in str(remark)
    assert "rare word" in remark.remedy


def test_one_common_word_of_a_large_vocabulary() -> None:
    assert "common word" in token_remarks("cat", "dog", Large())[0].problem
    assert token_remarks("sks", "dog", Large()) == []
    assert token_remarks("ohwx", "dog", Large()) == []


def test_captions_that_are_cut(tmp_path: Path, tokenizer: CLIPTokenizer) -> None:
    room = tokenizer.model_max_length - 2
    for name, words in (("a", room), ("b", room + 1)):
        noise(words).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(" ".join(["dog"] * words))
    shutil.copy(tmp_path / "a.png", tmp_path / "z.png")
    photos, _ = survey(tmp_path, Framing(48))
    (remark,) = caption_remarks(photos, tokenizer)
    assert str(remark).startswith(f"b.png: has a caption of {room + 1} tokens, of which the base reads {room}")
    assert str(remark).endswith("shorten it: 'dog' is cut off")


@pytest.mark.parametrize(
    ("end", "read", "cut"),
    [
        ("dog, sks", "dog", ", sks"),
        ("wonderful sks", "w", "wonderful sks"),
        ("é sks", "", "é sks"),  # a letter of two tokens
    ],
)
def test_what_is_read_of_a_long_prompt(end: str, read: str, cut: str, tokenizer: CLIPTokenizer) -> None:
    before = "cat " * (tokenizer.model_max_length - 3)  # there is room for one token more
    found = Reading.of(before + end, tokenizer)
    assert (found.read.rstrip(), found.cut) == ((before + read).rstrip(), cut)
    assert found.loses("sks") and found.loses("SKS") and not found.loses("cat") and not found.loses("bird")
    (remark,) = length_remarks("x", before + end, tokenizer, ["sks", "cat", "sks"])
    assert remark.remedy == f"shorten it: {cut!r} is cut off, and 'sks' with it"


def test_a_new_word_is_as_long_as_it_has_vectors(tokenizer: CLIPTokenizer) -> None:
    before = "cat " * (tokenizer.model_max_length - 4)  # there is room for two
    assert Reading.of(f"{before}qwertz", tokenizer).loses("qwertz")
    two = Reading.of(f"{before}Qwertz", tokenizer, {"qwertz": range(2)})
    assert (two.length, two.cut) == (two.room, "")
    three = Reading.of(f"{before}Qwertz", tokenizer, {"qwertz": range(3)})
    assert (three.length, three.cut) == (three.room + 1, "Qwertz")
