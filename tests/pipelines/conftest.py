"""One short training on the tiny base, shared by the tests that look at its results."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dreamtune.pipelines.generate.run import GenerateConfig, GenerateResult, generate
from dreamtune.pipelines.jobs.lock import take
from dreamtune.pipelines.jobs.queue import Job, Jobs
from dreamtune.pipelines.jobs.state import lock_path
from dreamtune.pipelines.jobs.store import JobStore
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import TrainResult, train
from dreamtune.training.config import TrainConfig

STEPS = 6
Submit = Callable[[str], Job]


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
            # not the preset's, which takes longer: tests of these ask for them
            "prior_weight": 1.0,
            "masks": True,
            "compose": 0.0,
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The queue's folder, not there yet, and an empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("DREAMTUNE_JOBS", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def jobs(home: Path) -> Jobs:
    return Jobs(home)


@pytest.fixture
def submit(jobs: Jobs, photos: Path, tiny: Path) -> Submit:
    """Put a training with the run folder `name` into the queue."""

    def put(name: str) -> Job:
        return jobs.submit("train", {"images": str(photos), "class_word": "dog", "base": str(tiny)}, name)

    return put


@pytest.fixture
def held(jobs: Jobs) -> Iterator[Callable[[Job], None]]:
    """Hold the lock of a job as its process does."""
    taken: list[int] = []

    def hold(job: Job) -> None:
        lock = take(lock_path(jobs.home, int(job.id)))
        assert lock is not None
        taken.append(lock)

    yield hold
    for lock in taken:
        os.close(lock)


def start(jobs: Jobs, job: Job, **values: Any) -> None:
    """Let the table say that a worker has started the job."""
    assert JobStore(jobs.home).update(int(job.id), state="started", started=2.0, **values)
