"""An adapter file on disk."""

from pathlib import Path

import pytest

from tests.adapters.nets import make_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "dog.safetensors"
    make_file().save(path)
    return path
