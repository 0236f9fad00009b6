"""One adapter alone: every fusion gives a file with which the base draws the same picture."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dreamtune.adapters import METHODS, AdapterFile
from dreamtune.fusion import FUSIONS, FusionOptions, WeightedAdapter, as_file, fuse_layers
from dreamtune.models import Base
from dreamtune.names import THINNED

Make = Callable[..., Path]


@pytest.mark.parametrize("method", METHODS)
def test_one_adapter_draws_as_it_did(method: str, make: Make, base: Base) -> None:
    file = AdapterFile.load(make("a", method))
    weights = file.weights(base.parts)

    def picture(it: AdapterFile) -> torch.Tensor:
        with base.attach(it):
            return base.draw(["an a on the beach"], [0], size=32, steps=2, guidance=5.0)

    expected, plain = picture(file), base.draw(["an a on the beach"], [0], size=32, steps=2, guidance=5.0)
    assert (expected - plain).abs().max() > 0.01  # the adapter does something
    for fusion in FUSIONS:
        options = FusionOptions(fusion, 1.0 if fusion in THINNED else None)
        layers = fuse_layers([WeightedAdapter("a", file)], options, weights)
        about = {"base": "", "token": "a", "class_word": "dog", "training": {}}
        fused = as_file(layers, file.layers, None, **about)
        assert set(fused.energy.values()) == {1.0}, fusion
        torch.testing.assert_close(picture(fused.file), expected, rtol=1e-4, atol=1e-4, msg=fusion)
