"""fp32 is computed in fp32, also in convolutions, unless TF32 is allowed; the setting is the caller's afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamtune.models import Base
from dreamtune.models.device import arithmetic, exact_convolutions
from tests.training.tiny_trainings import PLAIN, Run, make_config, make_unet

CPU = torch.device("cpu")
cudnn: Any = torch.backends.cudnn


@contextmanager
def watched(module: torch.nn.Module) -> Iterator[set[bool]]:
    """Whether TF32 was allowed whenever `module` computed something."""
    seen: set[bool] = set()
    hooks = [
        it.register_forward_pre_hook(lambda *_: seen.add(cudnn.allow_tf32))
        for it in module.modules()
        if isinstance(it, torch.nn.Conv2d)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Say how products of matrices are to be computed."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_torch_allows_it_unless_told_otherwise() -> None:
    assert cudnn.allow_tf32 is True
    with exact_convolutions():
        assert cudnn.allow_tf32 is False
    assert cudnn.allow_tf32 is True
    with pytest.raises(KeyError), exact_convolutions():
        raise KeyError
    assert cudnn.allow_tf32 is True


def test_who_allows_it_for_products_has_it_here(products: Any) -> None:
    assert arithmetic(CPU) == "cpu"
    products("high")
    assert arithmetic(CPU) == "cpu, products in TF32 or less"
    with exact_convolutions():
        assert cudnn.allow_tf32 is True


@pytest.mark.skipif(not hasattr(cudnn, "conv"), reason="torch has no setting for each kind of operation yet")
def test_settings_of_newer_torch_are_kept() -> None:
    conv = cudnn.conv
    conv.fp32_precision = "tf32"
    rnn = cudnn.rnn.fp32_precision
    cudnn.rnn.fp32_precision = "ieee"
    try:
        with pytest.raises(RuntimeError):
            print(cudnn.allow_tf32)
        with exact_convolutions():
            assert conv.fp32_precision == "ieee"
        assert conv.fp32_precision == "tf32"
    finally:
        cudnn.rnn.fp32_precision = rnn
    assert cudnn.allow_tf32 is True


def test_drawing_encoding_and_decoding_are_exact(base: Base) -> None:
    with watched(base.unet) as seen:
        base.draw(["a dog"], [0], size=32, steps=1, guidance=1.0)
    assert seen == {False}
    with watched(base.vae) as seen:
        base.encode_images(torch.zeros(1, 3, 32, 32))
    assert seen == {False}
    with watched(base.vae) as seen:
        base.decode(torch.zeros(1, 4, 8, 8))
    assert seen == {False}
    assert cudnn.allow_tf32 is True


def test_training_is_exact(tmp_path: Path) -> None:
    unet = make_unet()
    with watched(unet) as seen:
        Run(tmp_path, PLAIN, make_config(steps=1), unet)
    assert seen == {False}
    assert cudnn.allow_tf32 is True


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_convolves_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator) for shape in ((2, 64, 32, 32), (64, 64, 3, 3)))
    true = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    with exact_convolutions():
        found = torch.nn.functional.conv2d(x.cuda(), w.cuda(), padding=1).cpu().double()
    assert float((found - true).norm() / true.norm()) < 2e-6, "TF32 has 3e-4"
