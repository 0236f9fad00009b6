"""`--from PICTURE` draws a picture again from what it says of itself, or says which file is not what it was."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw
from PIL.PngImagePlugin import PngInfo

from dreamtune.adapters import AdapterFile
from dreamtune.errors import ConfigError
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.generate.metadata import again
from dreamtune.pipelines.train.run import TrainResult


@pytest.fixture
def place(tiny: Path, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the base, two runs whose adapters have the same name, a mask and a picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny)
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    file = AdapterFile.load(trained.adapter)
    shutil.copy(trained.adapter, tmp_path / "runs" / "two")
    file.tensors[next(iter(file.tensors))].mul_(-1)
    file.save(tmp_path / "runs" / "one" / "adapter.safetensors")
    mask = Image.new("L", (32, 32))
    ImageDraw.Draw(mask).ellipse((4, 4, 28, 28), fill=255)
    mask.save("mask.png")
    Image.linear_gradient("L").resize((32, 32)).save("init.png")
    return tmp_path


TWO = "runs/two/adapter.safetensors"
FIRST = ("--prompt", "a sks dog", "--adapter", f"{TWO}:0.8,mid=0.5@0.0-0.5", "--base", "tiny", "--n", "2")


def draw(*arguments: str, out: str = "out") -> int:
    return main(["generate", *arguments, "--steps", "4", "--device", "cpu", "--out", out])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seed", "5", "--scheduler", "euler", "--negative", "cat", "--guidance", "3"),
        ("--region", "runs/one/adapter.safetensors:0.5+runs/two/adapter.safetensors@mask.png=a sks dog"),
        ("--region", f"{TWO}@0,0,0.3,1=a = b @ c", "--softness", "0.2", "--mode", "blend"),
        ("--adapter", "runs/one/adapter.safetensors", "--mode", "composite"),
        ("--init", "init.png", "--denoise", "0.7"),
        ("--grid", "strength=1,9", "--n", "1"),
    ],
    ids=["plain", "mask", "box", "mode", "init", "grid"],
)
def test_one_command_draws_it_again(place: Path, arguments: tuple[str, ...]) -> None:
    assert draw(*FIRST, *arguments) == 0
    assert main(["generate", "--from", "out/0001.png", "--device", "cpu", "--out", "again"]) == 0
    assert [path.name for path in (place / "again").iterdir()] == ["0000.png"]
    drawn, first, second = (Image.open(path) for path in ("again/0000.png", "out/0000.png", "out/0001.png"))
    # a batch of one rounds otherwise than one of two
    assert max(ImageChops.difference(drawn, second).tobytes()) <= 1 < max(ImageChops.difference(drawn, first).tobytes())


def test_other_options_change_it(place: Path) -> None:
    assert draw(*FIRST) == 0
    config = again(Path("out/0001.png"), seed=9, adapters=["other.safetensors"])
    assert (config.seed, config.adapters, config.steps, config.prompts) == (
        9,
        ("other.safetensors",),
        4,
        ("a sks dog",),
    )


def test_adapters_are_found_beside_the_picture_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw(*FIRST) == 0
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    config = again(place / "out" / "0000.png", base=str(place / "tiny"))
    assert Path(config.adapters[0].partition(":")[0]).resolve() == place / TWO


@pytest.mark.parametrize(
    "arguments", [("--adapter", TWO), ("--region", f"{TWO}@0,0,0.3,1=a dog")], ids=["adapter", "region"]
)
def test_the_base_is_found_by_the_adapters_run(
    arguments: tuple[str, ...], place: Path, trained: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw("--prompt", "x", "--base", "tiny", *arguments) == 0
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    with pytest.raises(ConfigError, match="the base 'tiny', a local folder or file that is not here"):
        again(place / "out" / "0000.png")
    shutil.copy(trained.run / "config.yaml", place / "runs" / "two")
    assert Path(again(place / "out" / "0000.png").base).samefile(place / "tiny")


@pytest.mark.parametrize(
    ("name", "what"), [(TWO, "the adapter"), ("mask.png", "the mask"), ("init.png", "the init image")]
)
def test_files_that_changed_or_went_are_named_with_their_hashes(place: Path, name: str, what: str, capsys: Any) -> None:
    region = ("--region", f"{TWO}@mask.png=a sks dog", "--init", "init.png")
    assert draw("--prompt", "x", *region, "--base", "tiny", "--n", "1") == 0
    if name == TWO:
        shutil.rmtree("runs/one")
        file = AdapterFile.load(TWO)
        file.tensors[next(iter(file.tensors))].mul_(2)
        file.save(TWO)
    else:
        Image.new("L", (32, 32), 200).save(name)
    assert main(["generate", "--from", "out/0000.png", "--out", "again"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{what} " in error and "has changed since out/0000.png was generated (SHA-256 " in error
    Path(name).unlink()
    assert main(["generate", "--from", "out/0000.png", "--out", "again"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{what} {Path(name).name} of out/0000.png was not found (SHA-256 " in error
    assert not (place / "again").exists()


def write(path: str, told: Any) -> None:
    info = PngInfo()
    info.add_itxt("dreamtune", told if isinstance(told, str) else json.dumps(told))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (None, "has no generation metadata"),
        ("{", "has no generation metadata"),
        ({"prompt": "x"}, "is damaged"),
        ({"prompt": "x", "base": "pocket", "adapters": [{"file": 3}]}, "is damaged"),
        ({"grid": ["seed=1"], "pictures": ["0000.png"]}, "is the sheet of a grid: use one of its images (0000.png)"),
        ({"prompt": "x", "base": "my_base", "adapters": []}, "'my_base', a local folder or file that is not here"),
        ({"prompt": "x", "base": "pocket", "adapters": [], "steps": "many"}, "x.png: steps = 'many'"),
    ],
)
def test_pictures_that_do_not_tell(tmp_path: Path, told: Any, message: str, capsys: Any) -> None:
    path = str(tmp_path / "x.png")
    if told is None:
        Image.new("RGB", (8, 8)).save(path)
    else:
        write(path, told)
    assert main(["generate", "--from", path, "--out", str(tmp_path / "out")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert main(["generate", "--from", str(tmp_path / "none.png"), "--out", str(tmp_path / "out")]) == 2
    assert "cannot read the image" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_files_are_found_in_any_form_of_their_names(draw: Any, tmp_path: Path, photos: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))
    start = tmp_path / composed
    start.write_bytes(min(photos.glob("*.png")).read_bytes())
    drawn = draw(init=start, adapters=[], n=1).files[0]
    start.rename(tmp_path / apart)
    assert again(drawn, base="pocket").init == tmp_path / apart
