"""Fusions of adapters on convolutions: the file has their kernels, and does what the adapters do side by side."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.fusion import FusionOptions, WeightedAdapter, as_file, common_layers, fuse_layers
from dreamtune.models import Base, load_base
from tests.adapters.nets import disturb

ABOUT: dict[str, Any] = {"base": "tiny", "token": "", "class_word": "", "training": {}}


@pytest.fixture(scope="module")
def base(tiny: Path) -> Iterator[Base]:
    yield load_base(tiny, "cpu")


@pytest.fixture(scope="module")
def files(base: Base) -> list[AdapterFile]:
    """On all layers, convolutions too; in the second those with a kernel of 1x1 are told as linear layers."""
    made = []
    for seed, method in enumerate(("lora", "dora")):
        with attach(base.unet, METHODS[method].config_class(rank=2), "all", seed=seed) as attached:
            for index, (_, layer, adapter) in enumerate(attached.layers()):
                disturb(adapter, layer.base_weight, 1000 * seed + index)
                for parameter in adapter.parameters():
                    parameter.data *= 0.3
            made.append(AdapterFile.from_attached(attached, **ABOUT))
    plain = {p: replace(it, kernel=None) if it.kernel == (1, 1) else it for p, it in made[1].layers.items()}
    return [made[0], replace(made[1], layers=plain)]


def noise(base: Base, *files: AdapterFile) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    on = [file.attach(base.unet) for file in files]
    with torch.no_grad():
        output = base.unet(x, 10, torch.ones(1, 5, 32)).sample
    for attached in reversed(on):
        attached.detach()
    return output


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("whole", [True, False])
def test_a_fused_file_has_the_kernels(
    whole: bool, order: int, base: Base, files: list[AdapterFile], tmp_path: Path
) -> None:
    kernels = {path: it.kernel for path, it in files[0].layers.items() if it.kernel}
    assert {(1, 1), (3, 3)} <= set(kernels.values())
    taken = [WeightedAdapter(str(n), file) for n, file in enumerate(files)][::order]
    records = common_layers(taken)
    weights = files[0].weights(base.parts)
    fused = as_file(fuse_layers(taken, FusionOptions(), weights), records, 10**6, whole=whole, **ABOUT)
    fused.file.save(tmp_path / "fused.safetensors")
    again = AdapterFile.load(tmp_path / "fused.safetensors")
    assert again.method == ("full" if whole else "lora")
    assert {p: it.kernel or (1, 1) for p, it in again.layers.items() if p in kernels} == kernels
    plain, both = noise(base), noise(base, *files)
    assert float((both - plain).abs().max()) > 0.01
    torch.testing.assert_close(noise(base, again), both, rtol=1e-4, atol=1e-4)
