"""The first eigenvectors of a symmetric matrix whose eigenvalues are known, for less than what all of them cost.

By Chebyshev-filtered subspace iteration (Zhou et al., J. Comput. Phys. 219, 2006): some more random columns than are
wanted are multiplied by a polynomial of the matrix that is small on all eigenvalues but the first ones. Which those are
is known here, and so is the degree that is enough.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SPARE = 24
"""Columns beyond those wanted: the more, the farther away is the first eigenvalue to be damped."""
_DAMPING = 1e-10
"""What the polynomial is on unwanted eigenvalues, where it is 1 on the last wanted one."""
_RANGE = 1e6
"""What it may be on the first: in fp64 the last wanted vector then keeps ten digits beside that."""
_PRODUCTS = 48
"""From which all eigenvectors are had as fast."""
_ERROR = 1e-6
"""Sine of the angle to the true span up to which a result is taken."""


@torch.no_grad()
def leading(matrix: Tensor, values: Tensor, count: int) -> Tensor:
    """Orthonormal eigenvectors (n, count) of the `count` largest eigenvalues, that first.

    matrix: symmetric, positive semidefinite (n, n) fp64; values: all its eigenvalues (n,), descending, those of
    `count` above 0. Of all eigenvectors where a few are not had faster, or not certain to be within 1e-6 of the span.
    """
    if not count:
        return matrix[:, :0]
    plan = _plan(values, count)
    found = None if plan is None else _filtered(matrix, values, count, *plan)
    return torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :count] if found is None else found


def _edge(values: Tensor, count: int) -> float:
    """Below it all eigenvalues are damped."""
    return max(float(values[count + _SPARE]), _DAMPING * float(values[count - 1]))


def _plan(values: Tensor, count: int) -> tuple[int, int] | None:
    """Degree of the polynomial, and how often it is applied; None where all eigenvectors are had as fast."""
    if len(values) < 4 * (count + _SPARE):
        return None
    edge, goal = _edge(values, count), math.acosh(1 / _DAMPING)
    slow, fast = (math.acosh(2 * float(value) / edge - 1) for value in (values[count - 1], values[0]))
    if slow * _PRODUCTS < goal:
        return None
    degree = min(math.ceil(goal / slow), int(math.log(_RANGE) / max(fast - slow, 1e-9)))
    if not degree:
        return None
    times = math.ceil(math.log(1 / _DAMPING) / math.log(math.cosh(degree * slow)))
    return (degree, times) if degree * times <= _PRODUCTS else None


def _filtered(matrix: Tensor, values: Tensor, count: int, degree: int, times: int) -> Tensor | None:
    """By the polynomial of that degree; None if the span found is not certain to be the right one."""
    half = _edge(values, count) / 2
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count + _SPARE, len(values), generator=generator, dtype=matrix.dtype)  # thin products are
    for _ in range(times):  # faster with rows than with columns
        before, now = rows, F.linear(rows, matrix).div_(half).sub_(rows)
        for _ in range(degree - 1):  # T''(x) = 2x T'(x) - T(x) of the degrees before, x = matrix/half - 1
            before, now = now, F.linear(now, matrix).mul_(2 / half).sub_(now, alpha=2).sub_(before)
        rows = torch.linalg.qr(now.T).Q.T.contiguous()
    image = F.linear(rows, matrix)
    inner, turn = torch.linalg.eigh(rows @ image.T)
    inner, turn = inner.flip(0)[:count], turn.flip(1)[:, :count]
    vectors = rows.T @ turn
    rest = float((image.T @ turn - vectors * inner).norm())  # over the gap it bounds the sine (Davis & Kahan)
    return vectors if rest <= _ERROR * float(inner[-1] - values[count]) else None
