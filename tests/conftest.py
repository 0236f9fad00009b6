"""Nothing in the tests reaches the model hub or the user's own cache, and signals reach them as in a terminal."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # the hub's client reads it when it is imported

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """Leave what imports have made to no garbage collection: each of accelerate's would look through all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def signals() -> None:
    """Signals as in a terminal: under nohup, or behind a shell's &, they come ignored, and trainings leave it so."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of the tests, shared by all of them as users share theirs."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMTUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random base of the SD 1.x design; read only."""
    from tests.tiny_models import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random base of the SDXL design; read only."""
    from tests.tiny_models import tiny_sdxl_folder

    return tiny_sdxl_folder(tmp_path_factory.mktemp("bases") / "tiny-xl")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three pictures; read only."""
    from tests.tiny_models import pictures

    return pictures(tmp_path_factory.mktemp("photos") / "dog")
