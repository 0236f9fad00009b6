"""On a CUDA device: every method in every precision trains, stops and goes on, and draws what the CPU draws.

`pytest -m gpu` runs these where there is one; no test here is a stand-in for one that runs everywhere.
"""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.errors import Interrupted
from dreamtune.models import load_base
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig
from tests.adapters.nets import disturb
from tests.pipelines.conftest import STEPS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
Settings = Callable[..., TrainConfig]


def quiet(progress: Progress) -> None:
    """Listen to nothing."""


def rate(method: str) -> dict[str, Any]:
    """What a short training of `method` asks for."""
    return {"method": method, **({"method_options": {"launch_step": 3}} if method == "lora-dash" else {})}


@pytest.mark.parametrize("method", METHODS)
def test_layers_act_as_on_the_cpu(method: str, tiny: Path) -> None:
    """In double precision: in single precision a GPU's convolutions round to 10 bits, and a random net amplifies it."""
    outputs: dict[str, list[Tensor]] = {}
    for device in ("cpu", "cuda"):
        base = load_base(tiny, device="cpu")
        base.unet.double()
        attached = attach(base.unet, METHODS[method].config_class(rank=2))
        for _, layer, adapter in attached.layers():
            disturb(adapter, layer.base_weight)
            adapter.double()
        nn.Module.to(base.unet, device)
        attached.to(device)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64).to(device)
        width = base.unet.config["cross_attention_dim"]
        prompts = torch.randn(2, 5, width, generator=generator, dtype=torch.float64).to(device)
        y = base.unet(x, 10, prompts).sample
        gradients = torch.autograd.grad(y.square().mean(), list(attached.parameters()))
        outputs[device] = [t.detach().cpu() for t in (y, *gradients)]
    for ours, reference in zip(outputs["cuda"], outputs["cpu"], strict=True):
        assert (ours - reference).norm() <= 1e-6 * reference.norm() + 1e-9


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_trains_in_every_precision(method: str, precision: str, settings: Settings, tmp_path: Path) -> None:
    config = settings(device="cuda", precision=precision, gradient_checkpointing=True, **rate(method))
    result = train(config, tmp_path / "run", on_progress=quiet)
    assert math.isfinite(result.final_loss or math.nan)
    assert all(spectrum.norm > 0 for spectrum in AdapterFile.load(result.adapter).spectra().values())


def test_everything_else_that_trains(settings: Settings, tmp_path: Path) -> None:
    """Text encoder, new words, averages, samples, scores: with the class pictures in between."""
    config = settings(
        device="cuda",
        precision="fp16",
        text_encoder=True,
        ema_decay=0.9,
        sample_every=3,
        snr_gamma=5.0,
        gradient_accumulation_steps=2,
    )
    assert math.isfinite(train(config, tmp_path / "run", on_progress=quiet).final_loss or math.nan)
    config = settings(device="cuda", pivotal=2, text_encoder=False)
    assert math.isfinite(train(config, tmp_path / "words", on_progress=quiet).final_loss or math.nan)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU adds in whatever order it likes unless told otherwise."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("method", ["lora", "lora-dash"])
@pytest.mark.usefixtures("deterministic")
def test_stopped_and_resumed_is_uninterrupted(method: str, settings: Settings, tmp_path: Path) -> None:
    config = settings(device="cuda", **rate(method))
    whole = train(config, tmp_path / "whole", on_progress=quiet)
    stop = threading.Event()

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == ("train", STEPS - 2):
            stop.set()

    with pytest.raises(Interrupted):
        train(config, tmp_path / "halves", on_progress=listen, stop=stop)
    resumed = train(config, tmp_path / "halves", resume=True, on_progress=quiet)
    files = [AdapterFile.load(it.adapter).tensors for it in (whole, resumed)]
    for name, tensor in files[0].items():
        torch.testing.assert_close(files[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_xl_trains_and_draws(settings: Settings, tiny_sdxl: Path, tmp_path: Path) -> None:
    result = train(settings(base=str(tiny_sdxl), device="cuda", precision="bf16"), tmp_path / "run", on_progress=quiet)
    config = GenerateConfig(
        prompts=("a sks dog",), n=2, adapters=(str(result.adapter),), base=str(tiny_sdxl), device="cuda", steps=2
    )
    assert len(generate(config, tmp_path / "out", on_progress=quiet).files) == 2
