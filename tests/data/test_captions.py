"""Captions from files and from metadata.jsonl, and what is wrong with them."""

import json
import os
import unicodedata
from pathlib import Path

from dreamtune.data.buckets import Framing
from dreamtune.data.subject import Subject, load_subject
from tests.data.mess import noise


def load(folder: Path, count: int = 3) -> Subject:
    for number in range(count):
        noise(number, (48, 48)).save(folder / f"{number}.png")
    return load_subject(folder, "dog", framing=Framing(48))


def problems(subject: Subject) -> dict[str, str]:
    return {remark.file: remark.problem for remark in subject.remarks}


def test_metadata_of_image_folders(tmp_path: Path) -> None:
    lines = [{"file_name": "0.png", "text": "a sks dog\non grass"}, {"file_name": "1.png", "text": "a sks dog, asleep"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "1.txt").write_text("a sks dog by itself")
    subject = load(tmp_path)
    assert subject.captions == (("a sks dog on grass",), ("a sks dog by itself",), ("a sks dog",))
    assert not subject.remarks


def test_what_is_wrong_with_metadata(tmp_path: Path) -> None:
    lines = [
        '{"file_name": "0.png", "text": "a dog"}',
        "{broken",
        '{"file_name": "1.png"}',
        '{"file_name": "2.png", "text": " "}',
        '{"file_name": "9.png", "text": "a sks dog"}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    told = [str(remark) for remark in load(tmp_path).remarks]
    assert len(told) == 5
    assert any("metadata.jsonl (0.png): does not contain the token" in line for line in told)
    assert any("line 2 is malformed" in line for line in told)
    assert any("line 3 is malformed" in line for line in told)
    assert any("line 4 has an empty caption" in line for line in told)
    assert any("metadata.jsonl (9.png): matches no image" in line for line in told)


def test_caption_of_a_broken_picture_needs_no_second_remark(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    (tmp_path / "x.txt").write_text("a sks dog")
    assert list(problems(load(tmp_path))) == ["x.png"]


def test_the_second_file_of_a_picture_is_told_to_lose(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a sks dog, first")
    (tmp_path / "0.caption").write_text("a sks dog, second")
    subject = load(tmp_path)
    assert subject.captions[0] == ("a sks dog, first",)
    assert problems(subject) == {"0.caption": "is ignored in favor of 0.txt"}


def test_suffix_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "0.TXT").write_text("a sks dog, shouted")
    assert load(tmp_path).captions[0] == ("a sks dog, shouted",)


def test_what_is_no_caption_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.txt")
    (tmp_path / "1.txt").mkdir()
    (tmp_path / "2.txt").write_text("sks " * 20_000)
    told = problems(load(tmp_path))
    assert told == {
        "0.txt": "is not a regular file",
        "1.txt": "is not a regular file",
        "2.txt": "is longer than 64 KiB",
    }


def test_every_line_is_a_caption(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_bytes(b"a sks dog\r\n\r\n  a  sks dog on\tgrass \na sks dog\n")
    lines = [
        {"file_name": "1.png", "text": ["a sks dog, asleep", "sks dog"]},
        {"file_name": "2.png", "text": "a sks\nb"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    subject = load(tmp_path)
    assert subject.captions == (
        ("a sks dog", "a sks dog on grass", "a sks dog"),
        ("a sks dog, asleep", "sks dog"),
        ("a sks b",),
    )
    assert subject.prompts == ("a sks dog", "a sks dog on grass", "a sks dog, asleep", "sks dog", "a sks b")
    assert not subject.remarks


def test_one_line_is_what_it_was(tmp_path: Path) -> None:
    """A run that was begun when a file was one caption goes on: the digest of its pictures is the same."""
    digests = []
    for text in ("a sks dog on grass", " a  sks dog on grass\n"):
        (tmp_path / "0.txt").write_text(text)
        digests.append(load(tmp_path).digest)
    (tmp_path / "0.txt").write_text("a sks dog\non grass")
    assert digests[0] == digests[1] != load(tmp_path).digest


def test_a_caption_that_was_broken_into_lines_is_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a sks dog that lies\non the grass\nasleep")
    (tmp_path / "1.txt").write_text("a dog\nanother dog")
    (tmp_path / "2.txt").write_text("\n".join(f"a sks dog {n}" for n in range(101)))
    subject = load(tmp_path)
    assert problems(subject) == {
        "0.txt": "does not contain the token 'sks' in captions 2, 3 of 3",
        "1.txt": "does not contain the token 'sks'",
        "2.txt": "has 101 captions, one per line",
    }
    assert len(subject.captions[2]) == 100


def test_captions_of_pictures_with_one_name(tmp_path: Path) -> None:
    noise(9).save(tmp_path / "0.jpg")
    (tmp_path / "0.txt").write_text("a sks dog on grass")
    subject = load(tmp_path, 1)
    assert subject.captions == (("a sks dog on grass",),) * 2
    (remark,) = subject.remarks
    assert str(remark) == (
        "0.txt: is the caption of both 0.jpg and 0.png; rename one of them, or give it its own file, 0.png.txt"
    )
    (tmp_path / "0.png.txt").write_text("a sks dog on a sofa")
    subject = load(tmp_path, 1)
    assert subject.captions == (("a sks dog on grass",), ("a sks dog on a sofa",))
    assert not subject.remarks
    (tmp_path / "0.jpg").unlink()
    assert problems(load(tmp_path, 1)) == {"0.txt": "is ignored in favor of 0.png.txt"}


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    noise(1, (48, 48)).save(tmp_path / f"{apart}.jpg")
    noise(2, (48, 48)).save(tmp_path / f"{composed}-2.jpg")
    noise(3, (48, 48)).save(tmp_path / f"{composed}-3.jpg")
    (tmp_path / f"{composed}.txt").write_text("a sks dog in a caf\u00e9")
    (tmp_path / f"{apart}-2.caption").write_text("a sks dog, asleep")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": f"{apart}-3.jpg", "text": "a sks dog, awake"}))
    subject = load(tmp_path, 0)
    found = {unicodedata.normalize("NFC", photo.file): photo.captions for photo in subject.photos}
    assert found == {
        f"{composed}.jpg": ("a sks dog in a caf\u00e9",),
        f"{composed}-2.jpg": ("a sks dog, asleep",),
        f"{composed}-3.jpg": ("a sks dog, awake",),
    }
    assert not subject.remarks
    (tmp_path / f"{apart}.txt").write_text("a sks dog again")
    assert next(remark.problem for remark in load(tmp_path, 0).remarks).startswith("is ignored in favor of")


def test_metadata_that_is_none_or_says_things_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metadata.jsonl")
    assert problems(load(tmp_path)) == {"metadata.jsonl": "cannot be read (not a regular file)"}
    (tmp_path / "metadata.jsonl").unlink()
    lines = [{"file_name": "0.png", "text": text} for text in ("a sks dog", "a sks dog on grass")]
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join([*map(json.dumps, lines), '{"file_name": "1.png", "text": "\\ud800"}'])
    )
    subject = load(tmp_path)
    assert subject.captions[0] == ("a sks dog on grass",)
    assert problems(subject) == {
        "metadata.jsonl (0.png)": "is listed twice",
        "metadata.jsonl": "line 3 is malformed",
    }


def test_prompts_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("a sks dog, asleep")
    subject = load(tmp_path, 4)
    assert subject.prompts == ("a sks dog", "a sks dog, asleep")
