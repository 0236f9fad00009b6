"""A merged base that cannot be written: one clear message, and nothing is left."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dreamtune.errors import AdapterFileError
from dreamtune.pipelines.export.run import export
from dreamtune.pipelines.train.run import TrainResult
from tests.tiny_models import tiny_checkpoint


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as with `ulimit -f`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", ["diffusers", "checkpoint"])
def test_a_disk_without_room(form: str, trained: TrainResult, tiny: Path, tmp_path: Path) -> None:
    base = tiny if form == "diffusers" else tiny_checkpoint(tiny, tmp_path / "base.safetensors")
    before = set(tmp_path.iterdir())
    out = tmp_path / "new" / ("merged" if form == "diffusers" else "merged.safetensors")
    with (
        files_up_to(20_000),
        pytest.raises(
            AdapterFileError, match="cannot write .*merged.*: File too large; free some disk space or choose"
        ) as caught,
    ):
        export(trained.adapter, out, form=form, base=str(base), any_base=True)
    assert caught.value.exit_code == 2
    assert set(tmp_path.iterdir()) == before
