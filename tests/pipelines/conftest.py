"""One short training on the tiny base, shared by the tests that look at its results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dreamtune.pipelines.generate import GenerateConfig, GenerateResult, generate
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train import TrainResult, train
from dreamtune.training.config import TrainConfig

STEPS = 6


@pytest.fixture(scope="session")
def settings(tiny: Path, photos: Path) -> Callable[..., TrainConfig]:
    """Settings of a training that takes a second; keywords replace them."""

    def make(**changes: Any) -> TrainConfig:
        values = {
            "images": photos,
            "class_word": "dog",
            "base": str(tiny),
            "steps": STEPS,
            "batch_size": 2,
            "rank": 2,
            "prior_images": 3,
            "sampling_steps": 2,
            "checkpoint_every": 2,
            "device": "cpu",
        }
        return TrainConfig(**values | changes)

    return make


class Encoders(NamedTuple):
    """Folders of tiny judges."""

    dino: str
    clip: str


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """Tiny random DINO and CLIP; read only."""
    from tests.tiny_encoders import tiny_clip, tiny_dino

    folder = tmp_path_factory.mktemp("encoders")
    return Encoders(str(tiny_dino(folder / "dino")), str(tiny_clip(folder / "clip")))


@pytest.fixture(scope="session")
def told() -> list[Progress]:
    """What the shared training told while it ran."""
    return []


@pytest.fixture(scope="session")
def trained(
    settings: Callable[..., TrainConfig], told: list[Progress], tmp_path_factory: pytest.TempPathFactory
) -> TrainResult:
    """The shared training; its folder is read only."""
    return train(settings(sample_every=3), tmp_path_factory.mktemp("runs") / "dog", on_progress=told.append)


@pytest.fixture
def draw(tiny: Path, trained: TrainResult, tmp_path: Path) -> Any:
    """Draw into a new folder with settings that take a moment; keywords replace them."""

    def call(out: str = "out", **changes: Any) -> GenerateResult:
        values: dict[str, Any] = {
            "prompts": ["a sks dog"],
            "adapters": [str(trained.adapter)],
            "base": str(tiny),
            "n": 1,
            "steps": 2,
            "seed": 3,
            "device": "cpu",
        }
        return generate(GenerateConfig(**values | changes), tmp_path / out, on_progress=lambda _: None)

    return call


@pytest.fixture
def make(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the file of an adapter on the tiny base, or another, in a folder of that name; see adapter_on."""
    from tests.pipelines.tiny_adapters import adapter_on

    def made(name: str, method: str = "lora", *, base: Path = tiny, **options: Any) -> Path:
        return adapter_on(base, tmp_path / name / "adapter.safetensors", method, **options)

    return made


@pytest.fixture
def beside_the_base(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name a base by its folder alone, which is then found."""
    monkeypatch.chdir(tiny.parent)
