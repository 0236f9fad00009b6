"""A folder of a thousand files, two hundred of them broken in twenty ways, is looked through without a hitch."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from dreamtune.data.buckets import Framing
from dreamtune.data.encode import read_pixels
from dreamtune.data.images import (
    HEIF,
    Picture,
    UnusablePicture,
    open_picture,
    perceptual_hash,
    quiet,
    to_tensor,
)
from dreamtune.data.subject import load_subject
from dreamtune.data.survey import NEAR, survey
from tests.data.mess import AS_ROOT, BROKEN, ODD, encoded, make_mess, noise


def test_a_thousand_files_two_hundred_broken_in_twenty_ways(tmp_path: Path) -> None:
    assert len(BROKEN) + len(ODD) == 20
    problems, conversions = make_mess(tmp_path / "mess", good=800, each=10)
    began = time.monotonic()
    photos, remarks = survey(tmp_path / "mess", Framing(48, cell=8, step=16), "sks")
    assert time.monotonic() - began < 60
    told: dict[str, list[str]] = {}
    for remark in remarks:
        assert remark.remedy
        assert "\n" not in str(remark)
        told.setdefault(remark.file, []).append(remark.problem)
    assert set(told) == set(problems), "one remark for each problem and no other"
    for file, begins in problems.items():
        assert len(told[file]) == 1
        assert told[file][0].removeprefix("is ").startswith(begins.removeprefix("is ")), file
    used = {photo.file: photo for photo in photos}
    assert len([file for file in used if file[:4].isdigit()]) == 800
    for file, what in conversions.items():
        assert what in used[file].conversions
    plain = [photo for file, photo in used.items() if file not in conversions and not file.endswith(".gif")]
    assert not any(photo.conversions for photo in plain)
    assert all(photo.mask is not None for file, photo in used.items() if file.startswith("cutout"))


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that nobody owns, and this process as nobody."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    user = 65534
    if AS_ROOT:
        os.chown(folder, user, user)
        os.setegid(user)
        os.seteuid(user)
    try:
        yield folder
    finally:
        if AS_ROOT:
            os.seteuid(0)
            os.setegid(0)
        shutil.rmtree(folder)


def test_a_file_without_permission_is_named(as_nobody: Path) -> None:
    BROKEN["unreadable"][0](as_nobody, 1)
    noise(1).save(as_nobody / "good.png")
    photos, remarks = survey(as_nobody, Framing(48))
    assert [photo.file for photo in photos] == ["good.png"]
    assert str(remarks[0]) == "secret1.png: cannot be read (Permission denied); check its permissions"
    assert remarks[0].skipped


def test_pixels_are_not_kept(tmp_path: Path) -> None:
    noise(0, (800, 600)).save(tmp_path / "a.png")
    (photo,) = survey(tmp_path, Framing(512))[0]
    assert not any(isinstance(value, Image.Image) for value in vars(photo).values())
    assert photo.mask is None


LOOK = """
import resource, sys
from pathlib import Path
from dreamtune.data.buckets import Framing
from dreamtune.data.survey import survey
photos, _ = survey(Path(sys.argv[1]), Framing(1024, step=32))
print(len(photos), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.alone
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """Kept, the pixels that training needs of 300 photographs would take 900 MB, and those of the files 10 GB."""
    data = encoded(noise(0, (4000, 3000)), "JPEG")
    sizes = {}
    for count in (10, 300):
        (tmp_path / str(count)).mkdir()
        for number in range(count):
            (tmp_path / str(count) / f"{number}.jpg").write_bytes(data + bytes(number))
        result = subprocess.run(
            [sys.executable, "-c", LOOK, str(tmp_path / str(count))], capture_output=True, text=True, check=True
        )
        found, sizes[count] = map(int, result.stdout.split())
        assert found == count
    assert sizes[300] - sizes[10] < 50


def test_jpegs_are_decoded_small_but_whole(tmp_path: Path) -> None:
    data = encoded(noise(0, (2000, 1600)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    with quiet():
        small = open_picture(tmp_path / "a.jpg", 64)
        half = open_picture(tmp_path / "a.jpg", 800)
        whole = open_picture(tmp_path / "a.jpg")
    assert small.size == half.size == whole.size == whole.image.size == (2000, 1600)
    assert small.image.size == (250, 200)
    assert half.image.size == (1000, 800)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 9 // 10])
    with quiet(), pytest.raises(UnusablePicture, match="damaged"):
        open_picture(tmp_path / "cut.jpg", 64)


def test_names_that_begin_with_a_dot_are_ignored(tmp_path: Path) -> None:
    """macOS leaves one beside every file on disks of another system."""
    noise(0, (48, 48)).save(tmp_path / "a.png")
    for name in ("._a.png", "._a.txt", "._a.mask.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    photos, remarks = survey(tmp_path, Framing(48))
    assert [photo.file for photo in photos] == ["a.png"]
    assert remarks == []


def test_progress_ends_at_the_number_of_files(tmp_path: Path) -> None:
    for number in range(5):
        noise(number).save(tmp_path / f"{number}.png")
    told: list[tuple[int, int]] = []
    survey(tmp_path, Framing(48), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]


def test_a_stop_does_not_wait_for_the_rest(tmp_path: Path) -> None:
    for number in range(40):
        noise(number).save(tmp_path / f"{number:02}.png")
    looked: list[Path] = []

    def look(path: Path, side: int) -> Picture:
        looked.append(path)
        time.sleep(0.02)
        return open_picture(path, side)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with patch("dreamtune.data.survey.open_picture", look), pytest.raises(KeyboardInterrupt):
        survey(tmp_path, Framing(48), on_progress=stop)
    assert len(looked) < 40


def test_a_large_photograph_from_a_phone_is_upright(tmp_path: Path) -> None:
    upright = noise(3, (1200, 1600))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "a.jpg").write_bytes(encoded(stored, "JPEG", exif=exif, quality=95))
    (photo,) = survey(tmp_path, Framing(128, step=32))[0]
    assert photo.crop.original == (1200, 1600)
    assert photo.conversions == ("rotated upright",)
    expected = to_tensor(photo.crop.apply(upright))
    assert (read_pixels(photo) - expected).abs().mean() < 0.02


def test_likeness_parts_copies_from_others() -> None:
    """Smaller copies of lower quality look alike, other pictures do not."""
    hashes = []
    for seed in range(40):
        image = noise(seed, (300, 240))
        copy = image.resize((200, 160))
        copy = Image.fromarray((np.asarray(copy) * 0.9).astype(np.uint8))
        hashes.append(perceptual_hash(image))
        assert (hashes[-1] ^ perceptual_hash(copy)).bit_count() <= NEAR
    assert min((a ^ b).bit_count() for n, a in enumerate(hashes) for b in hashes[:n]) > 2 * NEAR


@pytest.mark.skipif(not HEIF, reason="pillow-heif is not installed")
def test_pictures_of_an_iphone(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.from_pillow(noise(0)).save(tmp_path / "IMG_1.HEIC")
    photos, remarks = survey(tmp_path, Framing(48))
    assert [photo.file for photo in photos] == ["IMG_1.HEIC"]
    assert not [remark for remark in remarks if remark.skipped]


def test_heic_without_its_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dreamtune.data import images

    monkeypatch.setattr(images, "HEIF", False)
    monkeypatch.setattr(images, "FORMATS", ("JPEG", "PNG"))
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    noise(1).save(tmp_path / "b.png")
    remark = load_subject(tmp_path, "dog", framing=Framing(48)).remarks[0]
    assert "pip install pillow-heif" in remark.remedy
