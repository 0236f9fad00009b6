"""Messages quote what files and clients give, and yet only ever show text."""

import pickle

import pytest

from dreamtune.errors import AdapterFileError, DreamtuneError
from dreamtune.text import inert


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07\x1b[31mX", r"\x1b]0;owned\x07\x1b[31mX"),
        ("a\u202eb\u200b\u2066", r"a\u202eb\u200b\u2066"),
        ("a\r\tb\x85\u2028", r"a\r\tb\x85\u2028"),
        ("\udcff", r"\udcff"),
        ("Kätzchen 猫　\xa0\n🐈", "Kätzchen 猫　\xa0\n🐈"),
    ],
)
def test_what_would_act_is_written_out(text: str, shown: str) -> None:
    assert inert(text) == shown
    assert str(AdapterFileError(text)) == f"{AdapterFileError(text)}" == shown


def test_messages_are_short() -> None:
    text = str(DreamtuneError(f"it begins {'x' * 10**6} and ends"))
    assert len(text) <= 1000
    assert text.startswith("it begins xxx")
    assert text.endswith("xxx and ends")


def test_errors_come_back_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(AdapterFileError("\x1b[31m")))
    assert (type(error), str(error)) == (AdapterFileError, r"\x1b[31m")
