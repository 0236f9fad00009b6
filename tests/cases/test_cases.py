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


NOT_YET = {
    *("names of an adapter default_0", "names of an adapter of any name"),
    *("norms beside a LoRA", "a bias beside a LoRA", "an embedding beside a LoRA"),
    *("a projection as a 1x1 kernel", "a 3x3 kernel", "LoKr whose factors no factor gives", "a whole matrix (.diff)"),
    *("a file of OFT", "a file of GLoRA", "a file of IA3", "a LoRA of Flux", "a LoRA of a language model"),
    *("a pickle of PEFT", "a folder with a named adapter inside", "a pointer of git-lfs"),
    *("an alpha of 400 digits", "a Kronecker product of 32 GB", "NaN, of a rank above the layer's"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_right(case: Case, bounded: Bounded, tmp_path: Path) -> None:
    if case.name in NOT_YET:
        pytest.skip("being mended")
    row = look(case, tmp_path / "input", bounded)
    assert row.ok, f"{case.expected}, not {row.got}"


def test_names_tell_them_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
