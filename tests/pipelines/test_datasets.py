"""Pictures that are brought into the app keep their captions and masks, and captions their lines."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from dreamtune.data.buckets import Framing
from dreamtune.data.subject import load_subject
from dreamtune.pipelines import datasets
from dreamtune.pipelines.workspace import Workspace
from tests.data.mess import noise


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "app")


def brought(workspace: Workspace, tmp_path: Path, names: list[str]) -> Path:
    """The data set made of files of these names: noise, masks of the upper half, captions that tell their number."""
    files: list[tuple[str, Path]] = []
    for number, name in enumerate(names):
        path = tmp_path / f"upload-{number}{Path(name).suffix}"
        if path.suffix == ".txt":
            path.write_text(f"sks {number}")
        elif "mask" in name:
            Image.new("L", (48, 24), 255).crop((0, 0, 48, 48)).save(path)  # black below
        else:
            noise(number, (48, 48)).save(path)
        files.append((name, path))
    return workspace.datasets / datasets.bring(workspace, files)


@pytest.mark.parametrize(
    ("names", "captions"),
    [
        (["dog.jpg", "dog.txt", "dog_mask.png"], [("sks 1",)]),
        (["dog (1).jpg", "dog (1)-masklabel.png", "dog (1).txt"], [("sks 2",)]),
        (["dog.jpg", "dog.jpg.txt", "dog.jpg.mask.png"], [("sks 1",)]),
        ([f"{'x' * 80}{end}" for end in (".jpg", "_mask.png", ".txt")], [("sks 2",)]),
        ([f"{'x' * 80}{end}" for end in ("a.jpg", "b.jpg", "b.txt", "b.mask.png")], [("a sks dog",), ("sks 2",)]),
        ([unicodedata.normalize("NFD", "caf\u00e9.jpg"), "caf\u00e9.txt", "caf\u00e9-mask.png"], [("sks 1",)]),
        (["?.jpg", "!.jpg", "!.txt"], [("a sks dog",), ("sks 2",)]),
    ],
)
def test_what_belongs_together_stays_together(
    workspace: Workspace, tmp_path: Path, names: list[str], captions: list[tuple[str, ...]]
) -> None:
    folder = brought(workspace, tmp_path, names)
    subject = load_subject(folder, "dog", framing=Framing(48, buckets=False))
    assert sorted(subject.captions) == captions
    assert [remark.problem for remark in subject.remarks] == []
    assert len(datasets.picture_files(folder)) == len(captions)
    assert len(list(folder.iterdir())) == len(names)


def test_captions_keep_their_lines(workspace: Workspace, tmp_path: Path) -> None:
    folder = brought(workspace, tmp_path, ["a.jpg", "b.jpg", "a.caption.txt"])
    (folder / "a.caption").write_text("a sks dog\na sks dog asleep\n")
    assert datasets.read_captions(folder) == {"a.jpg": "a sks dog\na sks dog asleep", "b.jpg": ""}
    written = {"a.jpg": "", "b.jpg": " a  sks dog\r\n\nsks dog "}
    assert datasets.write_captions(workspace, folder.name, written) == 1
    assert datasets.read_captions(folder) == {"a.jpg": "", "b.jpg": "a sks dog\nsks dog"}
    assert (folder / "b.txt").read_text() == "a sks dog\nsks dog\n"
