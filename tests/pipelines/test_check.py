"""`dreamtune check` says what training would do with a folder, and training does it."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from dreamtune.errors import ConfigError, DatasetError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.check import check, patiently
from dreamtune.pipelines.train.run import train
from dreamtune.training.config import TrainConfig
from dreamtune.training.presets import PRESETS
from tests.data.mess import make_mess, noise


def test_a_mess_is_told_line_by_line(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems, _ = make_mess(tmp_path / "mess", good=20, each=1)
    assert main(["check", str(tmp_path / "mess"), "--base", str(tiny), "--token", "sks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, begins in problems.items():
        (line,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert begins.removeprefix("is ") in line
        assert "; " in line, "and what to do"
    assert len(lines) == len(problems) + 3
    assert "27 usable images, 0 with a caption, 1 with a mask" in lines
    assert "rotated upright (1)" in lines[-1]


@pytest.mark.slow
def test_training_works_on_the_rest(tmp_path: Path, tiny: Path) -> None:
    problems, _ = make_mess(tmp_path / "mess", good=20, each=1)
    config = TrainConfig(images=tmp_path / "mess", class_word="dog", base=str(tiny), steps=3, batch_size=4, prior=False)
    lines: list[str] = []
    result = train(config, tmp_path / "run", on_progress=lambda progress: lines.append(progress.line()))
    assert result.adapter.is_file()
    assert result.pictures == 27
    told = [line for line in lines if line.startswith("remark: ")]
    assert all(any(line.startswith(f"remark: {name}: ") for line in told) for name in problems)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert len(report["remarks"]) == len(told)


def test_json_names_every_picture(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(PRESETS["pocket"], "buckets")  # whose design the tiny base has
    noise(0, (64, 64)).save(tmp_path / "a.png")
    noise(1, (96, 60)).save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a sks dog")
    (tmp_path / "c.png").touch()
    assert main(["check", str(tmp_path), "--base", str(tiny), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["usable"] == 2
    assert result["skipped"] == ["c.png"]
    assert result["shapes"] == {"32x32": 1, "40x24": 1}
    assert result["pictures"][1] == {
        "file": "b.png",
        "size": [96, 60],
        "trained_at": [40, 24],
        "kept": pytest.approx(0.96, abs=0.05),
        "captions": ["a sks dog"],
        "masked": False,
        "conversions": [],
    }
    assert result["remarks"][0]["problem"] == "is empty (0 bytes)"
    assert result["error"] is None


def test_training_sees_shapes_masks_and_mirrors(tmp_path: Path, tiny: Path) -> None:
    """Each of them changes the adapter, and the same again gives the same bytes."""
    images = tmp_path / "dog"
    images.mkdir()
    for number, size in enumerate([(64, 64), (96, 60), (60, 96)]):
        noise(number, size).save(images / f"{number}.png")
    mask = Image.new("L", (96, 60))
    mask.paste(255, (20, 10, 60, 50))
    mask.save(images / "1.mask.png")

    whole = TrainConfig(
        images=images,
        class_word="dog",
        base=str(tiny),
        steps=4,
        batch_size=2,
        prior=False,
        buckets=True,
        flip=True,
    )

    def adapter(name: str, **changes: bool) -> bytes:
        path = train(whole.changed(**changes), tmp_path / name, on_progress=lambda progress: None).adapter
        return b"".join(tensor.numpy().tobytes() for tensor in load_file(path).values())

    all_of_it = adapter("a")
    others = [adapter("b", buckets=False), adapter("c", flip=False), adapter("d", masks=False)]
    assert len({all_of_it, *others}) == 4
    assert adapter("e") == all_of_it


def test_nothing_usable_and_strict_are_refused(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").touch()
    assert main(["check", str(tmp_path), "--base", str(tiny)]) == 2
    printed = capsys.readouterr()
    assert "a.png: is empty" in printed.out
    assert "no usable image" in printed.err
    noise(0).save(tmp_path / "b.png")
    assert main(["check", str(tmp_path), "--base", str(tiny)]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path), "--base", str(tiny), "--strict", "--json"]) == 2
    printed = capsys.readouterr()
    assert "turn off strict" in json.loads(printed.out)["error"]
    assert "a.png" in printed.err


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no image folder"):
        check(tmp_path / "none")
    noise(0).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="multiple of 8"):
        check(tmp_path, resolution=33)


def test_the_token_is_looked_at(tmp_path: Path) -> None:
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    (remark,) = check(tmp_path, token="red house").remarks
    assert str(remark).startswith("token 'red house': is several common words (red, house); use a rare word")
    assert check(tmp_path, token="sks").remarks == ()


def test_training_warns_of_common_words(tmp_path: Path) -> None:
    noise(0, (48, 48)).save(tmp_path / "a.png")
    config = TrainConfig(images=tmp_path, class_word="dog", token="red house", steps=1, batch_size=1, prior=False)
    config = config.changed(warmup_steps=0)
    lines: list[str] = []
    train(config, tmp_path / "run", on_progress=lambda progress: lines.append(progress.line()))
    assert any("several common words" in line for line in lines)


def test_progress_is_told_when_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    monkeypatch.setattr("dreamtune.pipelines.train.check.PATIENCE", 3600.0)
    patiently(told.append)(1, 2)
    assert told == []
    monkeypatch.setattr("dreamtune.pipelines.train.check.PATIENCE", -1.0)
    patiently(told.append)(2, 2)
    assert told == [Progress("pictures", 2, 2)]
