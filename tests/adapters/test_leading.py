from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dreamtune.adapters.leading import leading
from tests.analysis.truth import generator

SIZE = 160


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of all matrices that are decomposed whole."""
    whole, seen = torch.linalg.eigh, list[int]()

    def eigh(matrix: Tensor) -> object:
        seen.append(len(matrix))
        return whole(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    return seen


def matrix_of(values: Sequence[float] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A symmetric matrix, its eigenvalues as given, and its eigenvectors."""
    known = torch.as_tensor(values, dtype=torch.float64)
    vectors = torch.linalg.qr(torch.randn(len(known), len(known), generator=generator(1), dtype=torch.float64)).Q
    return (vectors * known) @ vectors.T, known, vectors


def check(found: Tensor, matrix: Tensor, values: Tensor, count: int) -> None:
    """Orthonormal eigenvectors of the first eigenvalues, in order."""
    torch.testing.assert_close(found.T @ found, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-10)
    error = (matrix @ found - found * values[:count]).norm(dim=0)
    assert float(error.max()) <= 1e-6 * float(values[0])


def sine(found: Tensor, true: Tensor) -> float:
    """Of the largest angle between the spans."""
    return float(torch.linalg.matrix_norm(found - true @ (true.T @ found), 2))


QUICK = {
    "falling": 0.9 ** torch.arange(SIZE),
    "falling slowly": 1 / (1 + torch.arange(SIZE)) ** 0.5,
    "equal ones": [5.0] * 4 + [3.0] * 4 + [1.0] * (SIZE - 8),
    "one far above": [1e6] + [2.0] * 7 + [1.0] * (SIZE - 8),
    "rank 20": [20.0 - i for i in range(20)] + [0.0] * (SIZE - 20),
    "rank 8": [8.0 - i for i in range(8)] + [0.0] * (SIZE - 8),
}


@pytest.mark.parametrize("name", QUICK)
def test_the_first_are_found_without_the_others(name: str, sizes: list[int]) -> None:
    matrix, values, vectors = matrix_of(QUICK[name])
    found = leading(matrix, values, 8)
    check(found, matrix, values, 8)
    assert sine(found, vectors[:, :8]) < 1e-6
    assert max(sizes) < SIZE


def test_a_random_matrix_has_gap_enough(sizes: list[int]) -> None:
    """The spectrum of a change that a full fine-tuning from noise makes: flat, ending in a steep edge."""
    change = torch.randn(400, 400, generator=generator(0), dtype=torch.float64)
    matrix = change.T @ change
    values = torch.linalg.eigvalsh(matrix).flip(0)
    found = leading(matrix, values, 8)
    assert max(sizes) < 400
    check(found, matrix, values, 8)
    assert sine(found, torch.linalg.eigh(matrix).eigenvectors[:, -8:]) < 1e-6


WHOLE = {
    "all equal": ([1.0] * SIZE, 8),
    "all but equal": (1 + 1e-15 * torch.arange(SIZE, 0, -1, dtype=torch.float64), 8),
    "hardly a gap": (1 + 1e-9 * torch.arange(SIZE, 0, -1, dtype=torch.float64), 8),
    "one far above what is equal": ([1e12] + [1.0] * (SIZE - 1), 8),
    "the last wanted equal to the next": ([5.0] * 9 + [1.0] * (SIZE - 9), 8),
    "over twelve decades": (10 ** -torch.linspace(0, 12, SIZE, dtype=torch.float64), SIZE),
    "small": ([4.0, 2.0, 1.0], 2),
    "a number": ([2.0], 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_all_are_computed_where_the_first_alone_are_not_had_surely(name: str, sizes: list[int]) -> None:
    spectrum, count = WHOLE[name]
    matrix, values, _ = matrix_of(spectrum)
    check(leading(matrix, values, count), matrix, values, count)
    assert sizes[-1] == len(values)


def test_what_the_polynomial_does_not_find_is_not_taken(sizes: list[int]) -> None:
    """As if it had: by eigenvalues that promise a gap where the matrix has none."""
    matrix, values, vectors = matrix_of(1 - torch.arange(SIZE) / SIZE)
    promised = values.clone()
    promised[8:] = 0.01
    assert sine(leading(matrix, promised, 8), vectors[:, :8]) < 1e-6
    assert sizes[-1] == SIZE


def test_none_are_wanted() -> None:
    assert leading(torch.zeros(SIZE, SIZE, dtype=torch.float64), torch.zeros(SIZE), 0).shape == (SIZE, 0)
