"""A folder becomes a subject, and everything that was not used as it stood is named."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamtune.data.buckets import Framing
from dreamtune.data.encode import read_pixels
from dreamtune.data.subject import Subject, load_subject
from dreamtune.errors import DatasetError


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (48, 48)) -> Path:
    """Save a picture of smooth noise that no other seed looks like."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def load(folder: Path, side: int = 32, **options: Any) -> Subject:
    """Square pictures of `side` pixels."""
    return load_subject(folder, "dog", "sks", Framing(side, buckets=False), **options)


def names(subject: Subject) -> tuple[str, ...]:
    return tuple(photo.file for photo in subject.photos)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "dog"
    folder.mkdir()
    for index in range(3):
        picture(folder / f"{index}.png", index)
    return folder


def test_pictures_in_order_of_name_with_the_instance_prompt(folder: Path) -> None:
    subject = load(folder)
    assert names(subject) == ("0.png", "1.png", "2.png")
    assert subject.captions == (("a sks dog",),) * 3
    images = [read_pixels(photo) for photo in subject.photos]
    assert all(image.shape == (3, 32, 32) and image.abs().max() <= 1 for image in images)
    assert subject.skipped == ()


def test_same_folder_same_digest_and_any_change_shows(folder: Path) -> None:
    digest = load(folder).digest
    assert load(folder).digest == digest
    assert load(folder, 40).digest != digest
    (folder / "1.txt").write_text("a sks dog asleep")
    with_caption = load(folder).digest
    assert with_caption != digest
    picture(folder / "2.png", 9)
    assert load(folder).digest not in (digest, with_caption)


def test_captions(folder: Path) -> None:
    (folder / "0.txt").write_text("\ufeffa sks dog  on grass \n", encoding="utf-8")
    (folder / "1.caption").write_text("a dog")
    (folder / "2.txt").write_text("  ")
    (folder / "9.txt").write_text("a sks dog")
    (folder / "README.md").write_text("x")
    subject = load(folder, prompts=["a photo of sks dog", "sks dog, a photo"])
    assert subject.captions == (("a sks dog on grass",), ("a dog",), ("a photo of sks dog", "sks dog, a photo"))
    told = {remark.file: remark.problem for remark in subject.remarks}
    assert "does not contain the token" in told["1.caption"]
    assert "empty" in told["2.txt"]
    assert "matches no image" in told["9.txt"]
    assert told["README.md"] == "is not an image"
    assert subject.skipped == ()


def test_caption_that_is_not_text_is_remarked(folder: Path) -> None:
    (folder / "0.txt").write_bytes(b"\xff\xfe\x00broken\xff")
    subject = load(folder)
    assert subject.captions[0] == ("a sks dog",)
    assert "UTF-8" in subject.remarks[0].problem


def test_bad_files_are_skipped_by_name_and_strict_refuses(folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "empty.png").touch()
    (folder / "page.jpeg").write_text("<html>not found</html>")
    subject = load(folder)
    assert len(subject.photos) == 3
    assert subject.skipped == ("broken.jpg", "empty.png", "page.jpeg")
    with pytest.raises(DatasetError, match=r"broken\.jpg.*2 more"):
        load(folder, strict=True)


def test_what_is_no_file_is_never_opened(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "album.png").mkdir()
    os.mkfifo(folder / "pipe.jpg")  # reading it would wait for ever
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / ".hidden.png").write_bytes(b"x")
    subject = load(folder)
    told = {remark.file: remark for remark in subject.remarks}
    assert set(told) == {"sub", "album.png", "pipe.jpg", "loop.png"}
    assert told["sub"].problem == "is a folder"
    assert told["pipe.jpg"].skipped
    assert len(subject.photos) == 3


def test_exact_duplicates_are_used_once_and_near_ones_remarked(folder: Path) -> None:
    shutil.copy(folder / "0.png", folder / "copy.png")
    Image.open(folder / "1.png").save(folder / "near.jpg", quality=90)
    subject = load(folder, strict=True)
    told = {remark.file: remark.problem for remark in subject.remarks}
    assert told == {"copy.png": "is a copy of 0.png", "near.jpg": "looks like 1.png"}
    assert "copy.png" not in names(subject)
    assert "near.jpg" in names(subject)


def test_picture_without_extension_is_found(folder: Path) -> None:
    picture(folder / "x.png", 7).rename(folder / "IMG_0001")
    assert "IMG_0001" in names(load(folder))


def test_odd_names_stay_on_one_line(folder: Path) -> None:
    picture(folder / "Ünïcode 犬.png", 5)
    (folder / "new\nline.png").touch()
    subject = load(folder)
    assert "Ünïcode 犬.png" in names(subject)
    assert all("\n" not in str(remark) for remark in subject.remarks)
    assert "new\\nline.png" in str(subject.remarks[0])


def test_small_and_long_pictures_are_remarked(folder: Path) -> None:
    picture(folder / "wide.png", 6, (200, 50))
    problems = {r.problem for r in load(folder, 128).remarks if r.file == "wide.png"}
    assert problems == {"is upscaled 2.6 times", "loses 75% to cropping (200x50 to 128x128)"}


def test_loading_is_repeatable(folder: Path) -> None:
    first, second = (load(folder, 40).photos for _ in range(2))
    assert all(torch.equal(read_pixels(a), read_pixels(b)) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no image folder at .*: check the path"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: (path.mkdir(), (path / "notes.txt").write_text("x")), "no usable image"),
        (lambda path: (path.mkdir(), (path / "a.png").touch()), r"no usable image.*a\.png.*0 bytes"),
        (lambda path: (path.mkdir(), (path / "sub").mkdir()), "no usable image.*is a folder"),
    ],
)
def test_unusable_folders(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "pictures"
    make(path)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message):
        load_subject(path, "dog")
