"""Gradient fusion: the closed form is what L-BFGS finds, and does on each adapter's inputs what the adapter does."""

import pytest
import torch
from torch import Tensor, nn

from dreamtune.fusion.delta import Delta
from dreamtune.fusion.gradient import Moments, fuse_gradient, recorded
from dreamtune.fusion.methods import Part

OUT, IN, TOKENS = 12, 16, 200


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(seed: int) -> Tensor:
    """(tokens, in) of some directions more than others, as activations are."""
    return drawn(TOKENS, 5, seed=seed) @ drawn(5, IN, seed=seed + 1) + 0.2 * drawn(TOKENS, IN, seed=seed + 2)


PARTS = [Part(Delta.of_factors(drawn(OUT, 3, seed=s), drawn(3, IN, seed=s + 1)), w) for s, w in ((0, 1.0), (2, 2.0))]
INPUTS = [inputs(10), inputs(20)]


def moments() -> list[Tensor]:
    found = []
    for x in INPUTS:
        own = Moments()
        for chunk in x.split(30):
            own.add("layer", chunk)
        found.append(own.of("layer"))
    return found


def residual(change: Tensor) -> float:
    """Mean over adapters of the error on its own inputs, relative to its change."""
    errors = [
        (x @ (change - p.delta.dense()).T).norm() / (x @ p.delta.dense().T).norm()
        for p, x in zip(PARTS, INPUTS, strict=True)
    ]
    return float(sum(errors)) / len(errors)


def test_it_is_what_lbfgs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamtune.fusion.gradient.RIDGE", 1e-9)
    found = fuse_gradient(PARTS, moments()).dense()
    mean = (PARTS[0].delta.dense() + 2 * PARTS[1].delta.dense()) / 3
    change = mean.double().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [change], max_iter=3000, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for part, x in zip(PARTS, INPUTS, strict=True):
            error = x.double() @ (change - part.delta.dense().double()).T
            loss = loss + part.weight * error.square().sum() / TOKENS
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(found, change.detach().float(), rtol=0, atol=1e-4)


def test_it_keeps_more_of_each_adapter_than_the_mean() -> None:
    mean = (PARTS[0].delta.dense() + PARTS[1].delta.dense()) / 2
    assert residual(fuse_gradient(PARTS, moments()).dense()) < 0.4 * residual(mean)


def test_one_adapter_and_either_order() -> None:
    assert torch.equal(fuse_gradient(PARTS[:1], moments()[:1]).dense(), PARTS[0].delta.dense())
    forth, back = fuse_gradient(PARTS, moments()), fuse_gradient(PARTS[::-1], moments()[::-1])
    torch.testing.assert_close(forth.dense(), back.dense(), rtol=1e-4, atol=1e-5)


def test_layers_without_inputs_have_the_mean() -> None:
    found = fuse_gradient(PARTS, [torch.zeros(IN, IN)] * 2).dense()
    torch.testing.assert_close(found, (PARTS[0].delta.dense() + 2 * PARTS[1].delta.dense()) / 3)


def test_weights_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        fuse_gradient([Part(PARTS[0].delta, -1.0), PARTS[1]], moments())


def test_recording_sees_all_inputs_of_a_layer() -> None:
    net = nn.Sequential(nn.Linear(IN, 4), nn.Linear(4, 3))
    with torch.no_grad(), recorded({"first": net[0], "second": net[1]}) as found:
        net(INPUTS[0].view(2, -1, IN))
        net(INPUTS[1])
    net(INPUTS[0])  # after the block nothing is recorded
    both = torch.cat(INPUTS)
    torch.testing.assert_close(found.of("first"), both.T @ both / len(both))
    assert found.counts == {"first": 2 * TOKENS, "second": 2 * TOKENS}
