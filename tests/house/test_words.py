"""A word is looked for by one rule: as a word of its own, in small letters or large, in one Unicode form."""

import unicodedata

import pytest

from dreamtune.words import holds, places, replaced, same

NFD = unicodedata.normalize("NFD", "café")
NFC = unicodedata.normalize("NFC", "café")


@pytest.mark.parametrize(
    ("text", "word", "held"),
    [
        ("a sks dog", "sks", True),
        ("a photo of SKS dog", "sks", True),
        ("a sks dog", "SKS", True),
        ("sks", "sks", True),
        ("a man asks a question", "sks", False),
        ("flasks on a table", "sks", False),
        ("a sks2 dog", "sks", False),
        ("sks_dog", "sks", False),
        ("asks sks", "sks", True),
        ("(sks:1.3), sks-like", "sks", True),
        ("the sks's collar", "sks", True),
        ("a <sks> dog", "<sks>", True),
        ("a<sks>dog", "<sks>", True),
        ("a sks dog", "<sks>", False),
        ("a sks* dog", "sks*", True),
        ("xa-a-a", "a-a", True),
        ("a red house", "red house", True),
        ("a red houseboat", "red house", False),
        ("ein ÄÖß-Hund", "äöß", True),
        ("щенок скс на траве", "СКС", True),
        ("щенок плоскс", "скс", False),
        ("", "sks", False),
    ],
)
def test_whole_words(text: str, word: str, held: bool) -> None:
    assert holds(text, word) is held


def test_forms_of_unicode() -> None:
    assert NFD != NFC
    assert holds(f"a {NFD} dog", NFC) and holds(f"a {NFC} dog", NFD) and same(NFC, NFD)
    assert not holds(f"a {NFD} dog", "cafe"), "the accent belongs to its letter"
    assert not holds("x\u0331 dog", "x"), "also one that no composed character has"
    assert not holds("नमस्ते", "नमस"), "a vowel sign goes on with the word"


def test_where_and_in_its_place() -> None:
    assert places("sks asks SKS, Xob", ["sks", "xob"]) == [(0, 3), (9, 12), (14, 17)]
    assert places("sks", []) == []
    assert replaced("SKS asks a sks.", "sks", "{token}") == "{token} asks a {token}."
