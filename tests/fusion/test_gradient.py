"""Gradient fusion: the closed form is what L-BFGS finds, and does on each adapter's inputs what the adapter does."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.adapters import Delta
from dreamtune.fusion import Moments, recorded
from dreamtune.fusion.gradient import fuse_gradient
from dreamtune.fusion.layer_deltas import LayerDelta

OUT, IN, TOKENS = 12, 16, 200


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed: int) -> Tensor:
    """(tokens, in) of some directions more than others, as activations are."""
    return drawn(TOKENS, 5, seed=seed) @ drawn(5, IN, seed=seed + 1) + 0.2 * drawn(TOKENS, IN, seed=seed + 2)


DELTAS = [Delta.of_factors(drawn(OUT, 3, seed=s), drawn(3, IN, seed=s + 1)) for s in (0, 2)]
INPUTS = [inputs(10), inputs(20)]


def parts(weights: tuple[float, float] = (1.0, 1.0), deltas: list[Delta] = DELTAS) -> list[LayerDelta]:
    """With the moments of inputs that came in pieces."""
    found = []
    for delta, weight, x in zip(deltas, weights, INPUTS, strict=True):
        own = Moments()
        for chunk in x.split(30):
            own.add("layer", chunk)
        found.append(LayerDelta(delta, weight, inputs=own.means()["layer"]))
    return found


def residual(change: Tensor) -> float:
    """Mean over adapters of the error on its own inputs, relative to its change."""
    errors = [
        (x @ (change - delta.dense()).T).norm() / (x @ delta.dense().T).norm()
        for delta, x in zip(DELTAS, INPUTS, strict=True)
    ]
    return float(sum(errors)) / len(errors)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.0), (0.5, -1.0)])
@pytest.mark.parametrize("full", [False, True])
def test_it_is_what_lbfgs_finds(full: bool, weights: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamtune.fusion.gradient.RIDGE", 1e-9)
    deltas = [Delta.of_matrix(drawn(OUT, IN, seed=s)) for s in (0, 1)] if full else DELTAS
    found = fuse_gradient(parts(weights, deltas), 1.0).dense()
    change = torch.zeros(OUT, IN, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [change], max_iter=3000, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    wanted = [
        (abs(weight), x.double(), weight * delta.dense().double())
        for delta, weight, x in zip(deltas, weights, INPUTS, strict=True)
    ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for size, x, target in wanted:
            loss = loss + size * (x @ (change - target).T).square().sum() / TOKENS
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found, change.detach().float(), rtol=1e-4, atol=1e-4)


def test_it_keeps_more_of_each_adapter_than_the_mean() -> None:
    mean = (DELTAS[0].dense() + DELTAS[1].dense()) / 2
    assert residual(fuse_gradient(parts(), 1.0).dense()) < 0.4 * residual(mean)


def test_alike_adapters_come_out_as_they_are() -> None:
    found = fuse_gradient(parts(deltas=[DELTAS[0]] * 2), 1.0).dense()
    torch.testing.assert_close(found, DELTAS[0].dense(), rtol=1e-6, atol=1e-6)


def test_layers_without_inputs_have_the_mean() -> None:
    blank = [
        LayerDelta(delta, weight, inputs=torch.zeros(IN, IN)) for delta, weight in zip(DELTAS, (1.0, 3.0), strict=True)
    ]
    expected = (DELTAS[0].dense() + 9 * DELTAS[1].dense()) / 4  # λ times what it does, counted λ times
    torch.testing.assert_close(fuse_gradient(blank, 1.0).dense(), expected)


def test_recording_sees_all_inputs_of_a_layer() -> None:
    net, found = nn.Sequential(nn.Linear(IN, 4), nn.Linear(4, 3)), Moments()
    with torch.no_grad(), recorded({"first": net[0], "second": net[1]}, found):
        net(INPUTS[0].view(2, -1, IN))
        net(INPUTS[1])
    net(INPUTS[0])  # after the block nothing is recorded
    both = torch.cat(INPUTS)
    torch.testing.assert_close(found.means()["first"], both.T @ both / len(both))
    assert found.counts == {"first": 2 * TOKENS, "second": 2 * TOKENS}
    again = Moments.of_tensors(found.tensors(), torch.device("cpu"))
    again.add("first", INPUTS[0])
    found.add("first", INPUTS[0])
    assert torch.equal(again.means()["first"], found.means()["first"])


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_inputs_of_a_convolution_are_its_patches(padding_mode: Any) -> None:
    """Their moments say what any ΔW does to its outputs."""
    layer = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 1), padding_mode=padding_mode, bias=False)
    x, found = drawn(2, 3, 6, 5, seed=0).requires_grad_(), Moments()
    with recorded({"layer": layer}, found):
        layer(x)
        outputs = layer(2 * x)
    (moment,) = found.means().values()
    tokens = outputs[:, 0].numel()
    assert found.counts == {"layer": 2 * tokens}
    for seed in range(3):
        change = drawn(4, 18, seed=seed)
        with torch.no_grad():
            layer.weight.copy_(change.view(4, 3, 3, 2))
            energy = (1 + 4) * float(layer(x).square().sum()) / (2 * tokens)
        assert Delta.of_matrix(change).output_norm(moment) == pytest.approx(energy**0.5, rel=1e-4)


def test_convolutions_are_fused_by_what_they_do_to_their_patches() -> None:
    """No other ΔW is nearer to each adapter's own outputs."""
    layer, xs = nn.Conv2d(2, 5, 2, bias=False), [drawn(4, 2, 6, 6, seed=s) for s in (30, 31)]
    changes = [Delta.of_factors(drawn(5, 2, seed=s), drawn(2, 8, seed=s + 1)) for s in (0, 2)]
    own = []
    for change, x in zip(changes, xs, strict=True):
        with torch.no_grad(), recorded({"layer": layer}, moments := Moments()):
            layer(x)
        own.append(LayerDelta(change, 1.0, inputs=moments.means()["layer"]))

    def error(matrix: Tensor) -> Tensor:
        outputs = (F.conv2d(x, (matrix - it.dense()).view(5, 2, 2, 2)) for x, it in zip(xs, changes, strict=True))
        return torch.stack([y.square().mean() for y in outputs]).sum()

    fused = fuse_gradient(own, 1.0).dense().requires_grad_()
    summed = (changes[0].dense() + changes[1].dense()).requires_grad_()
    slope, other = (torch.autograd.grad(error(it), it)[0].norm() for it in (fused, summed))
    assert float(slope) < 0.02 * float(other)
    assert float(error(fused).detach()) < float(error(summed).detach())
