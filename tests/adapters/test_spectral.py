"""The Spectral Adapters against their paper (arXiv 2405.13952), written down plainly in fp64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dreamtune.adapters import METHODS, attach
from dreamtune.adapters.base import ParameterOptions
from dreamtune.adapters.methods.spectral import Spectral, SpectralConfig
from dreamtune.errors import ConfigError
from tests.adapters.nets import config_of, frozen_net

METHOD_NAMES = ("spectral-a", "spectral-r")


@st.composite
def adapters(draw: st.DrawFn, method: str) -> tuple[Spectral, Tensor]:
    """An adapter in fp64 with random values on a random weight that fp32 can hold."""
    out, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    part = draw(st.sampled_from(["top", "bottom"]))
    with_values = draw(st.booleans())
    smallest = 2 if method == "spectral-r" and not with_values else 1
    out, width = max(out, smallest), max(width, smallest)
    rank = draw(st.integers(smallest, min(out, width)))
    offset = draw(st.integers(0, min(out, width) // rank - 1))
    alpha = draw(st.sampled_from([float(rank), 2.5]))
    options = {"part": part, "column_offset": offset, "train_singular_values": with_values}
    config = config_of(method, rank=rank, alpha=alpha, **options)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    weight = torch.randn(out, width, generator=generator).double()
    adapter = METHODS[method](config, out, width)
    adapter.initialize(weight, generator)
    adapter.double()
    for parameter in adapter.parameters():
        parameter.data.normal_(0, 0.7, generator=generator)
    assert isinstance(adapter, Spectral)
    return adapter, weight


def changed(adapter: Spectral, weight: Tensor) -> tuple[Tensor, Tensor]:
    """W' of the paper, by its whole decomposition, and the W that the changed block and the rest multiply to.

    The decomposition is torch's own, with the block's columns from the adapter: signs are arbitrary, and columns are
    kept in fp32.
    """
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    v, config = vh.T, adapter.config
    start = config.column_offset * config.rank
    if config.part == "bottom":
        start = len(s) - start - config.rank
    block = slice(start, start + config.rank)
    u, s, v = u.clone(), s.clone(), v.clone()
    for column, ours in zip(range(len(s))[block], adapter.u.T, strict=True):  # they are that block, up to sign
        assert abs(float(u[:, column] @ ours)) == pytest.approx(1, abs=1e-5)
    u[:, block], s[block], v[:, block] = adapter.u, adapter.s, adapter.v
    before = u @ torch.diag(s) @ v.T
    values = torch.zeros(config.rank) if adapter.values is None else adapter.values
    if adapter.left.dim() == 2:
        u[:, block] += adapter.left
        v[:, block] += adapter.right
        s[block] += values
    else:
        u[:, block] = u[:, block].clone() @ cayley(adapter.left, config.rank)
        v[:, block] = v[:, block].clone() @ cayley(adapter.right, config.rank)
        s[block] *= 1 + values
    return u @ torch.diag(s) @ v.T, before


def cayley(triangle: Tensor, rank: int) -> Tensor:
    """R (r, r), entry by entry."""
    x = torch.zeros(rank, rank, dtype=torch.float64)
    numbers = iter(triangle)
    for row in range(rank):
        for column in range(row + 1, rank):
            x[row, column] = next(numbers)
    assert next(numbers, None) is None
    k = (x - x.T) / 2
    one = torch.eye(rank, dtype=torch.float64)
    rotation = (one - k) @ torch.linalg.inv(one + k)
    torch.testing.assert_close(rotation.T @ rotation, one)
    return rotation


@pytest.mark.parametrize("method", METHOD_NAMES)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_change_and_gradients_are_the_papers(method: str, data: st.DataObject) -> None:
    adapter, weight = data.draw(adapters(method))
    after, before = changed(adapter, weight)
    torch.testing.assert_close(before, weight, rtol=0, atol=3e-6)  # a block in fp32
    expected = adapter.config.scale * (after - before)
    torch.testing.assert_close(adapter.delta_weight(weight), expected, rtol=1e-9, atol=1e-10)

    x = torch.randn(3, weight.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = adapter.delta_output(x, weight)
    torch.testing.assert_close(y, F.linear(x, expected), rtol=1e-9, atol=1e-9)
    towards = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wrt = [parameter for parameter in adapter.parameters() if parameter.numel()]
    ours = torch.autograd.grad((y * towards).sum(), wrt)
    papers = torch.autograd.grad((F.linear(x, expected) * towards).sum(), wrt)
    for one, other in zip(ours, papers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("with_values", [False, True])
def test_count_of_trained_numbers(method: str, with_values: bool) -> None:
    """A: the paper's r(n + m). R: r(r-1)/2 angles for each of the two rotations."""
    config = config_of(method, rank=3, train_singular_values=with_values)
    numbers = sum(parameter.numel() for parameter in METHODS[method](config, 5, 7).parameters())
    assert numbers == (3 * (5 + 7) if method == "spectral-a" else 3 * 2) + (3 if with_values else 0)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("with_values", [False, True])
def test_rank_of_the_change(method: str, with_values: bool) -> None:
    net = frozen_net()
    config = config_of(method, rank=2, train_singular_values=with_values)
    adapter = attach(net, config, "first").double().adapters["first"]
    for parameter in adapter.parameters():
        parameter.data.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    factors = adapter.low_rank(net.first.weight)
    assert factors is not None
    limit = 4 if method == "spectral-a" else 2
    assert factors[0].shape == (5, limit)
    assert int(torch.linalg.matrix_rank(adapter.delta_weight(net.first.weight))) == limit


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_alpha_is_linear(method: str) -> None:
    changes = []
    for alpha in (2.0, 6.0):
        net = frozen_net()
        adapter = attach(net, config_of(method, alpha=alpha), "first").double().adapters["first"]
        for parameter in adapter.parameters():
            parameter.data.fill_(0.4)
        changes.append(adapter.delta_weight(net.first.weight))
    torch.testing.assert_close(changes[1], 3 * changes[0])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_singular_values_are_not_decayed(method: str) -> None:
    for with_values in (False, True):
        attached = attach(frozen_net(), config_of(method, train_singular_values=with_values), "first|second")
        groups = attached.parameter_groups()
        values = [adapter.values for adapter in attached.adapters.values() if isinstance(adapter, Spectral)]
        assert sum(len(group) for group in groups.values()) == len(list(attached.parameters()))
        undecayed = groups.get(ParameterOptions(weight_decay=False), [])
        assert [id(parameter) for parameter in undecayed] == [id(value) for value in values if value is not None]
        assert len(undecayed) == (2 if with_values else 0)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column_offset": -1}, "column_offset = -1 must be at least 0"),
        ({"column_offset": 1.0}, "column_offset = 1.0 must be of type int"),
        ({"part": "middle"}, "part = 'middle' must be 'top' or 'bottom'"),
        ({"train_singular_values": 1}, "train_singular_values = 1 must be of type bool"),
    ],
)
def test_impossible_options_are_named(method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(method, **options)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_block_outside_the_matrix_names_the_last_one(method: str) -> None:
    net = frozen_net()
    message = r"column_offset = 2 is outside a layer of 5x7: with rank = 2 use at most 1 \(layer first\)"
    with pytest.raises(ConfigError, match=message):
        attach(net, config_of(method, column_offset=2), "first")
    config = config_of(method, column_offset=1)
    assert isinstance(config, SpectralConfig)
    assert attach(net, config, "first").attached


def test_rotation_of_one_column_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="rank = 1 has nothing to rotate: use at least 2, or set train_singular_values"
    ):
        config_of("spectral-r", rank=1)
    config = config_of("spectral-r", rank=1, train_singular_values=True)
    adapter = METHODS["spectral-r"](config, 5, 7)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 1
