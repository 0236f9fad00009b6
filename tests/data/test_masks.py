"""Masks weigh latent cells by what they show, go with the crop, and are refused with a reason."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamtune.data.buckets import Framing
from dreamtune.data.encode import subject_examples
from dreamtune.data.subject import Subject, load_subject
from dreamtune.models import load_base
from tests.data.mess import noise

SQUARE = Framing(32, buckets=False, cell=4, step=8)


def painted(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """A mask that shows `box`."""
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    mask.save(path)


def load(folder: Path, framing: Framing = SQUARE, masks: bool = True) -> Subject:
    return load_subject(folder, "dog", framing=framing, masks=masks)


def test_a_mask_beside_the_picture(tmp_path: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    painted(tmp_path / "a.mask.png", (64, 64), (0, 0, 36, 64))
    (photo,) = load(tmp_path).photos
    assert photo.mask is not None
    expected = np.tile([1, 1, 1, 1, 0.5, 0, 0, 0], (8, 1))  # 36 of 64 pixels are 4.5 of 8 cells
    assert photo.mask == pytest.approx(expected, abs=0.01)


def test_what_is_transparent_in_a_mask_is_black(tmp_path: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    mask.paste((255, 255, 255, 255), (0, 0, 24, 64))
    mask.paste((255, 255, 255, 128), (24, 0, 32, 64))
    mask.save(tmp_path / "a.mask.png")
    (photo,) = load(tmp_path).photos
    assert photo.mask is not None
    assert photo.mask == pytest.approx(np.tile([1, 1, 1, 0.5, 0, 0, 0, 0], (8, 1)), abs=0.01)


def test_a_mask_is_cropped_like_its_picture(tmp_path: Path) -> None:
    noise(0, (128, 64)).save(tmp_path / "a.png")
    painted(tmp_path / "a.mask.png", (64, 32), (0, 0, 32, 32))  # the left half, drawn on a smaller copy
    (photo,) = load(tmp_path).photos
    assert photo.crop.box == (32, 0, 96, 64)
    assert photo.mask is not None
    assert photo.mask[:, :4] == pytest.approx(1)
    assert photo.mask[:, 4:] == pytest.approx(0)


def test_a_mask_has_the_shape_of_the_bucket(tmp_path: Path) -> None:
    noise(0, (100, 60)).save(tmp_path / "a.png")
    painted(tmp_path / "a.mask.png", (100, 60), (0, 0, 50, 30))
    (photo,) = load(tmp_path, Framing(32, cell=4, step=8)).photos
    assert photo.crop.size == (40, 24)
    assert photo.mask is not None
    assert photo.mask.shape == (6, 10)


def test_transparency_is_a_mask_and_opacity_is_none(tmp_path: Path) -> None:
    image = noise(0, (64, 64)).convert("RGBA")
    image.save(tmp_path / "opaque.png")
    image = noise(1, (64, 64)).convert("RGBA")
    image.putalpha(Image.new("L", (64, 64), 128))
    image.save(tmp_path / "half.png")
    half, opaque = load(tmp_path).photos
    assert opaque.mask is None
    assert half.mask == pytest.approx(np.full((8, 8), 128 / 255))
    assert all(photo.mask is None for photo in load(tmp_path, masks=False).photos)


def test_what_is_wrong_with_a_mask(tmp_path: Path) -> None:
    for number, name in enumerate(("black", "broken", "cropped", "wide")):
        noise(number, (64, 32)).save(tmp_path / f"{name}.png")
    painted(tmp_path / "black.mask.png", (64, 32), (0, 0, 0, 0))
    (tmp_path / "broken.mask.png").write_bytes(b"x")
    painted(tmp_path / "cropped.mask.png", (64, 32), (0, 0, 10, 32))
    painted(tmp_path / "wide.mask.png", (64, 64), (0, 0, 64, 64))
    painted(tmp_path / "none.mask.png", (64, 32), (0, 0, 64, 64))
    subject = load(tmp_path)
    told = {remark.file: str(remark) for remark in subject.remarks if remark.file.endswith("mask.png")}
    assert "is all black" in told["black.mask.png"]
    assert "not a readable image" in told["broken.mask.png"]
    assert "nothing inside the crop" in told["cropped.mask.png"]
    assert "wrong size (64x64, the image 64x32)" in told["wide.mask.png"]
    assert "matches no image" in told["none.mask.png"]
    assert len(told) == 5
    assert [photo.mask for photo in subject.photos] == [None] * 4


def test_a_mask_that_shows_everything_is_remarked_on(tmp_path: Path) -> None:
    noise(0, (64, 48)).save(tmp_path / "white.png")
    painted(tmp_path / "white.mask.png", (64, 48), (0, 0, 64, 48))
    noise(1, (64, 48)).save(tmp_path / "beside.png")
    painted(tmp_path / "beside.mask.png", (64, 48), (4, 0, 60, 48))  # all that cropping leaves
    subject = load(tmp_path)
    assert [photo.mask for photo in subject.photos] == [None, None]
    assert [str(remark) for remark in subject.remarks] == [
        f"{name}.mask.png: shows the whole crop, so it masks nothing; paint all but the subject black, or remove it"
        for name in ("beside", "white")
    ]
    assert subject.skipped == ()


def test_a_fully_transparent_picture_is_left_out(tmp_path: Path) -> None:
    noise(0).save(tmp_path / "good.png")
    Image.new("RGBA", (64, 64)).save(tmp_path / "nothing.png")
    subject = load(tmp_path)
    assert subject.skipped == ("nothing.png",)


def test_unused_masks_are_named(tmp_path: Path) -> None:
    noise(0, (32, 32)).save(tmp_path / "a.png")
    painted(tmp_path / "a.mask.png", (32, 32), (0, 0, 9, 9))
    subject = load(tmp_path, masks=False)
    assert subject.photos[0].mask is None
    assert [str(remark) for remark in subject.remarks] == ["masks: 1 are ignored; set masks to true to use them"]


def test_masks_are_mirrored_and_part_of_the_digest(tmp_path: Path, tiny: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    without = load(tmp_path).digest
    painted(tmp_path / "a.mask.png", (64, 64), (0, 0, 16, 64))
    subject = load(tmp_path)
    assert subject.digest != without
    plain, mirrored = subject_examples(load_base(str(tiny), device="cpu"), subject, flip=True)
    assert plain.mask is not None
    assert mirrored.mask is not None
    assert plain.mask.sum() == 16
    assert torch.equal(mirrored.mask, plain.mask.flip(-1))
    assert plain.mask.shape == plain.latent.shape[1:]


MASK = (0, 0, 32, 64)


def black_and_white(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    mask = Image.new("RGB", (64, 64))
    mask.paste((255, 255, 255), MASK)
    mask.save(path)


@pytest.mark.parametrize(
    "name",
    [
        *("a.mask.png", "a.Mask.JPG", "a-masklabel.png", "a_masklabel.png", "a_mask.png", "a-mask.webp", "a_MASK.jpg"),
        *("a.jpg.mask.png", "a.jpg_mask.png", "masks/a.png", "masks/a.jpg.png", "Mask/a_mask.jpg", "masks/a.mask.png"),
    ],
)
def test_masks_by_the_names_of_other_tools(tmp_path: Path, name: str) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    noise(1, (64, 64)).save(tmp_path / "b.jpg")
    black_and_white(tmp_path / name)
    subject = load(tmp_path)
    first, second = subject.photos
    assert (first.file, second.file, subject.remarks) == ("a.jpg", "b.jpg", ())
    assert second.mask is None
    assert first.mask == pytest.approx(np.tile([1, 1, 1, 1, 0, 0, 0, 0], (8, 1)), abs=0.05)


def test_of_several_masks_one_is_used(tmp_path: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    painted(tmp_path / "a.mask.png", (64, 64), (0, 0, 64, 32))
    for name in ("a-masklabel.png", "a_mask.png", "masks/a.png"):
        black_and_white(tmp_path / name)
    subject = load(tmp_path)
    (photo,) = subject.photos
    assert photo.mask is not None and photo.mask[0].all() and not photo.mask[-1].any()
    assert [(it.file, it.problem) for it in subject.remarks] == [
        (name, "is ignored in favor of a.mask.png") for name in ("a-masklabel.png", "a_mask.png", "masks/a.png")
    ]


def test_what_may_be_a_mask_or_a_picture_is_remarked_on(tmp_path: Path) -> None:
    """A gas mask is a subject; a mask whose picture is away is none."""
    noise(0, (64, 64)).save(tmp_path / "gas_mask.jpg")
    black_and_white(tmp_path / "away_mask.png")
    noise(1, (64, 64)).save(tmp_path / "dog.jpg")
    noise(2, (64, 64)).save(tmp_path / "dog_mask.jpg")
    noise(3, (64, 64)).save(tmp_path / "cat-masklabel.png")
    subject = load(tmp_path)
    assert [photo.file for photo in subject.photos] == ["dog.jpg", "gas_mask.jpg"]
    assert [photo.mask for photo in subject.photos] == [None, None]
    assert {it.file: (it.problem, it.skipped) for it in subject.remarks} == {
        "away_mask.png": ("is named like a mask but matches no image", True),
        "cat-masklabel.png": ("matches no image", False),
        "dog_mask.jpg": ("is named like a mask but has color, so it is ignored", True),
        "gas_mask.jpg": ("is named like a mask but has color", False),
    }


def test_a_folder_of_masks(tmp_path: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    noise(1, (64, 64)).save(tmp_path / "a.png")
    black_and_white(tmp_path / "masks" / "a.png")
    black_and_white(tmp_path / "masks" / "b.png")
    (tmp_path / "masks" / "notes.txt").touch()
    (tmp_path / "masks" / ".hidden").touch()
    subject = load(tmp_path)
    assert all(photo.mask is not None for photo in subject.photos) and len(subject.photos) == 2
    assert {it.file: str(it) for it in subject.remarks} == {
        "a.png": "a.png: is the mask of both a.jpg and a.png; rename one of them, or give it its own file, a.png.png",
        "masks/b.png": "masks/b.png: matches no image; give it the name of its image: x.mask.png for x.jpg",
        "masks/notes.txt": "masks/notes.txt: is not an image; it is ignored",
    }
    without = load(tmp_path, masks=False)
    assert [photo.mask for photo in without.photos] == [None, None]
    assert "2 are ignored" in [it.problem for it in without.remarks if it.file == "masks"]


def test_masks_are_compared_in_one_form(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    noise(0, (64, 64)).save(tmp_path / f"{apart}.jpg")
    black_and_white(tmp_path / f"{composed}_mask.png")
    (photo,) = load(tmp_path).photos
    assert photo.mask is not None


def test_a_mask_that_would_never_end(tmp_path: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "a.mask.png")
    (tmp_path / "b_mask.png").symlink_to("/dev/zero")
    noise(1, (64, 64)).save(tmp_path / "b.jpg")
    subject = load(tmp_path)
    assert [photo.mask for photo in subject.photos] == [None, None]
    why = ("cannot be read (not a regular file), so it is ignored", "use an image that can be read")
    assert [(it.file, it.problem, it.remedy) for it in subject.remarks] == [("a.mask.png", *why), ("b_mask.png", *why)]
