"""Every kind of input that once went wrong is met as it should be."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bounded import Bounded
from tests.cases.__main__ import CASES
from tests.cases.case import Case, look


@pytest.fixture(scope="module")
def bounded() -> Iterator[Bounded]:
    with Bounded() as bounded:
        yield bounded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_right(case: Case, bounded: Bounded, tmp_path: Path) -> None:
    row = look(case, tmp_path / "input", bounded)
    assert row.ok, f"{case.expected}, not {row.got}"


def test_names_tell_them_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
