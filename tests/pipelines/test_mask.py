"""`dreamtune mask`: masks that nobody has drawn, and nothing lost."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dreamtune
from dreamtune.data import cutout
from dreamtune.data.buckets import Framing
from dreamtune.data.subject import load_subject
from dreamtune.errors import ConfigError, DatasetError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.train.mask import MaskConfig, mask
from dreamtune.pocket.world import random_scene, random_subject, render
from tests.data.mess import noise

CLASSES = ("dog", "cat", "car")


def pixels(path: Path) -> np.ndarray:
    """Of a grey picture, (h, w)."""
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of noise, one of them not square."""
    path = tmp_path / "pictures"
    path.mkdir()
    noise(0, (64, 64)).save(path / "a.png")
    noise(1, (96, 64)).save(path / "b.jpg")
    return path


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The left half of every picture is the subject, without asking a base."""
    monkeypatch.setattr(
        cutout, "cut_out", lambda picture, found, grab: (np.indices(picture.shape[:2])[1] < picture.shape[1] / 2, 0.5)
    )


def test_masks_of_pocket_pictures_are_near_the_true_ones(tmp_path: Path) -> None:
    """0.83 in the mean of 120 pictures; a few of them here."""
    true: dict[str, Any] = {}
    for name in CLASSES:
        rng = Random(f"masked {name}")
        rendered = render(random_scene(rng, [random_subject(rng, name)], size="big"))
        (tmp_path / name).mkdir()
        Image.fromarray(rendered.image).save(tmp_path / name / "x.png")
        true[name] = rendered.masks[0]
        dreamtune.mask(tmp_path / name, name, device="cpu")
    ious = []
    for name in CLASSES:
        (photo,) = load_subject(tmp_path / name, name, framing=Framing(48, buckets=False, cell=4)).photos
        assert photo.mask is not None, "training reads it"
        found = pixels(tmp_path / name / "x.mask.png") > 0
        ious.append(cutout.agreement(found, true[name]))
    assert np.mean(ious) >= 0.75, ious


def test_what_is_written_and_told(
    folder: Path, tiny: Path, tmp_path: Path, half: None, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    arguments = ["mask", str(folder), "--class", "dog", "--base", str(tiny), "--device", "cpu"]
    assert main([*arguments, "--sheet", str(sheet), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [it["mask"] for it in told["masks"]] == ["a.mask.png", "b.mask.png"]
    first = told["masks"][0]
    assert first == {"file": "a.png", "mask": "a.mask.png", "covers": 0.5, "agreement": 0.5, "doubtful": True}
    written = pixels(folder / "b.mask.png")
    assert (written.shape, set(written.flat)) == ((64, 96), {0, 255})
    assert written[:, :48].all() and not written[:, 48:].any()
    assert sheet.stat().st_size > 0
    assert main([*arguments, "--overwrite"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a.mask.png", "50.0%", "0.50", "look"]
    assert "2 masks written" in lines[-1]


def test_what_is_there_stays(folder: Path, tiny: Path, half: None, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mask.png").write_bytes(b"mine")
    cut = noise(2, (64, 64)).convert("RGBA")
    cut.putalpha(Image.linear_gradient("L").resize((64, 64)))
    cut.save(folder / "c.png")
    arguments = ["mask", str(folder), "--class", "dog", "--base", str(tiny), "--device", "cpu"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "a.png: already has the mask a.mask.png, which is kept; set overwrite (--overwrite)" in out
    assert "c.png: is transparent: its opaque part is its mask" in out
    assert (folder / "a.mask.png").read_bytes() == b"mine"
    assert (folder / "b.mask.png").exists() and not (folder / "c.mask.png").exists()
    before = sorted(path.name for path in folder.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: nothing to do in") and error.endswith("(and 2 more)")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert main([*arguments, "--overwrite"]) == 0
    assert pixels(folder / "a.mask.png").shape == (64, 64)
    assert (folder / "c.mask.png").exists()


def test_masks_of_other_names_are_not_replaced(folder: Path, tiny: Path, half: None) -> None:
    Image.new("L", (64, 64), 255).save(folder / "a_mask.png")
    Image.new("L", (96, 64), 255).save(folder / "b.mask.jpg")
    kept = {name: (folder / name).read_bytes() for name in ("a_mask.png", "b.mask.jpg")}
    result = mask(MaskConfig(images=folder, class_word="dog", base=str(tiny), device="cpu", overwrite=True))
    assert [it.mask for it in result.masks] == ["a.mask.png"]
    assert [it.problem for it in result.remarks] == ["has the mask b.mask.jpg, which takes precedence over b.mask.png"]
    assert {name: (folder / name).read_bytes() for name in kept} == kept


def test_two_pictures_of_one_name(folder: Path, tiny: Path, half: None) -> None:
    noise(2, (64, 64)).save(folder / "a.jpg")
    result = mask(MaskConfig(images=folder, class_word="dog", base=str(tiny), device="cpu"))
    assert [it.mask for it in result.masks] == ["a.jpg.mask.png", "a.png.mask.png", "b.mask.png"]


@pytest.mark.parametrize(("share", "why"), [(0.0, "no dog was found"), (1.0, "no background was found")])
def test_everything_or_nothing(
    folder: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    share: float,
    why: str,
) -> None:
    def cut_out(picture: np.ndarray, found: np.ndarray, grab: bool) -> tuple[np.ndarray, float]:
        failed = np.full(picture.shape[:2], bool(share))
        wide = picture.shape[0] < picture.shape[1]  # a picture that gets one
        return (np.eye(*picture.shape[:2], dtype=bool) if wide else failed), 1.0

    monkeypatch.setattr(cutout, "cut_out", cut_out)
    Image.new("RGB", (64, 64), (9, 200, 9)).save(folder / "b.jpg")
    arguments = ["mask", str(folder), "--class", "dog", "--base", str(tiny), "--device", "cpu"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"Error: no mask could be made in {folder}: a.png: gets no mask") and why in error
    assert "; draw a mask by hand" in error
    noise(3, (128, 64)).save(folder / "c.png")
    assert main([*arguments, "--strict"]) == 2
    assert "without strict" in capsys.readouterr().err
    assert not list(folder.glob("*.mask.png"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_word": " "}, "class_word is empty"),
        ({"class_word": "x" * 90}, "is too long for the base"),
        ({"refine": "magic"}, "refine = 'magic': must be 'grabcut' or 'none'"),
        ({"sheet": "sheet.txt"}, "must be a file: use a name that ends in .png"),
        ({"sheet": "pictures/sheet.png"}, "would be trained on"),
        ({"sheet": "pictures/a.png"}, "already exists"),
        ({"images": "pictures/a.png"}, "is a file"),
        ({"images": "none"}, "no image folder"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refusals(
    folder: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    settings: dict[str, Any] = {"images": "pictures", "class_word": "dog", "base": str(tiny), "device": "cpu"} | changes
    with pytest.raises((ConfigError, DatasetError), match=message):
        mask(MaskConfig(**settings))
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.jpg"]


def test_refusals_on_the_command_line(folder: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--class", "dog", "--refine", "magic"], "refine = 'magic': must be 'grabcut' or 'none'"),
        (["--class", ""], "class_word"),
        ([], "--class"),
        (["--class", "dog", "--base", "nowhere"], "no base model 'nowhere'"),
    ):
        assert main(["mask", str(folder), *options]) == 2
        assert message in capsys.readouterr().err
    assert not list(folder.glob("*.mask.png"))
