"""Output that is whole or absent, also beside other processes."""

from pathlib import Path

import pytest

from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.pipelines.output import complete


def test_a_file_that_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    place = tmp_path / "new" / "fused.safetensors"
    with (
        pytest.raises(AdapterFileError, match="was written by another process in the meantime: choose another name"),
        complete(place, AdapterFileError) as target,
    ):
        target.write_text("mine")
        place.write_text("theirs")
    assert [path.read_text() for path in place.parent.iterdir()] == ["theirs"]


def test_a_folder_that_another_process_has_made_meanwhile_stays(tmp_path: Path) -> None:
    place = tmp_path / "report"
    with pytest.raises(ConfigError, match="cannot write .*report: Directory not empty"), complete(place) as target:
        target.mkdir()
        (target / "mine").write_text("mine")
        place.mkdir()
        (place / "theirs").write_text("theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert [path.name for path in place.iterdir()] == ["theirs"]


def test_a_file_becomes_its_place(tmp_path: Path) -> None:
    with complete(tmp_path / "a" / "b.txt") as target:
        target.write_text("whole")
    assert [path.read_text() for path in (tmp_path / "a").iterdir()] == ["whole"]
