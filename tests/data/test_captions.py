"""Captions from files and from metadata.jsonl, and what is wrong with them."""

import json
import os
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
    assert subject.captions == ("a sks dog on grass", "a sks dog by itself", "a sks dog")
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
    assert any("metadata.jsonl (0.png): does not hold the token" in line for line in told)
    assert any("line 2 is not as expected" in line for line in told)
    assert any("line 3 is not as expected" in line for line in told)
    assert any("line 4 has an empty caption" in line for line in told)
    assert any("metadata.jsonl (9.png): belongs to no picture" in line for line in told)


def test_caption_of_a_broken_picture_needs_no_second_remark(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    (tmp_path / "x.txt").write_text("a sks dog")
    assert list(problems(load(tmp_path))) == ["x.png"]


def test_the_second_file_of_a_picture_is_told_to_lose(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a sks dog, first")
    (tmp_path / "0.caption").write_text("a sks dog, second")
    subject = load(tmp_path)
    assert subject.captions[0] == "a sks dog, first"
    assert problems(subject) == {"0.caption": "is not used, since there is 0.txt"}


def test_suffix_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "0.TXT").write_text("a sks dog, shouted")
    assert load(tmp_path).captions[0] == "a sks dog, shouted"


def test_what_is_no_caption_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.txt")
    (tmp_path / "1.txt").mkdir()
    (tmp_path / "2.txt").write_text("sks " * 20_000)
    told = problems(load(tmp_path))
    assert told == {
        "0.txt": "is no regular file",
        "1.txt": "is no regular file",
        "2.txt": "is longer than 64 KiB",
    }


def test_prompts_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("a sks dog, asleep")
    subject = load(tmp_path, 4)
    assert subject.prompts == ("a sks dog", "a sks dog, asleep")
