"""Automatic layouts by command: what is drawn and recorded, and what is refused before anything is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.models import load_base
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.generate import collage, layout
from tests.adapters.nets import disturb

PROMPT = "a sks dog and a xyz cat on the beach"


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a (sks dog), b (xyz cat) and style, which tells no word."""
    folder = tmp_path_factory.mktemp("adapters")
    unet = load_base(tiny, "cpu").unet
    for seed, (name, word, cls) in enumerate([("a", "sks", "dog"), ("b", "xyz", "cat"), ("style", "", "")]):
        with attach(unet, LoRAConfig(rank=2, alpha=2.0)) as attached:
            for index, (_, layer, it) in enumerate(attached.layers()):
                disturb(it, layer.base_weight, 100 * seed + index)
            about = {"base": tiny.name, "token": word, "class_word": cls, "training": {}}
            AdapterFile.from_attached(attached, **about).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def call(tiny: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `dreamtune generate` where the adapters are; its exit status."""
    monkeypatch.chdir(adapters)

    def run(out: Path, *arguments: str) -> int:
        common = ["--base", str(tiny), "--steps", "4", "--device", "cpu", "--out", str(out)]
        return main(["generate", *common, *arguments])

    return run


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny base draws nothing that could be found: say that the first is at the left, and the second at the right."""
    maps = torch.ones(2, 4, 4)
    maps[0, :, :2] = maps[1, :, 2:] = 3
    monkeypatch.setattr(layout, "located", lambda *_, **__: maps / 2)


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it find anything in its pictures: say that all show their subject in the middle."""

    def middle(_: Any, picture: Image.Image, *__: Any) -> np.ndarray:
        mask = np.zeros((picture.height, picture.width), dtype=bool)
        mask[picture.height // 4 :, picture.width // 4 : picture.width * 3 // 4] = True
        return mask

    monkeypatch.setattr(collage, "drawn_mask", middle)


ALONE = {
    "routed": ("a sks dog on the left and a cat on the right", "a xyz cat on the right and a dog on the left"),
    "collage": ("a sks dog", "a xyz cat"),
}


@pytest.mark.parametrize("mode", ["routed", "collage"])
def test_a_layout_is_those_regions(mode: str, call: Any, halves: None, masks: None, tmp_path: Path) -> None:
    files = ("--adapter", "a.safetensors:0.5", "--adapter", "b.safetensors", "--adapter", "style.safetensors:0.3")
    asked = ("--layout", "auto", "--n", "2", "--seed", "3", "--mode", mode)
    assert call(tmp_path / "auto", *files, "--prompt", PROMPT, *asked) == 0
    first, second = ALONE[mode]
    regions = (
        *("--region", f"a.safetensors:0.5@0,0,0.5,1={first} on the beach"),
        *("--region", f"b.safetensors@0.5,0,1,1={second} on the beach"),
        *("--mode", mode),
    )
    style = ("--adapter", "style.safetensors:0.3")
    whole = ("--prompt", "a dog and a cat on the beach", "--n", "2", "--seed", "3")
    assert call(tmp_path / "hand", *style, *regions, *whole) == 0
    assert call(tmp_path / "again", "--from", str(tmp_path / "auto" / "0001.png")) == 0
    for first, second in (("auto/0000", "hand/0000"), ("auto/0001", "hand/0001"), ("auto/0001", "again/0000")):
        with Image.open(tmp_path / f"{first}.png") as one, Image.open(tmp_path / f"{second}.png") as two:
            assert max(ImageChops.difference(one, two).tobytes()) <= 1, (first, second)
    with Image.open(tmp_path / "auto" / "0001.png") as picture:
        told = json.loads(picture.info["dreamtune"])
    assert told.get("mode", "routed") == mode
    assert told["layout"] == {"way": "auto", "prompt": PROMPT}
    assert [it["box"] for it in told["regions"]] == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    assert [it["file"] for it in told["adapters"]] == ["style.safetensors"]


@pytest.mark.parametrize("mode", ["blend", "collage"])
def test_pictures_of_several_prompts_and_a_grid(
    mode: str, call: Any, halves: None, masks: None, tmp_path: Path
) -> None:
    files = ("--adapter", "a.safetensors", "--adapter", "b.safetensors", "--layout", "auto")
    both = ("--prompt", PROMPT, "--prompt", "a xyz cat and a sks dog", "--n", "1")
    assert call(tmp_path / "out", *files, *both, "--grid", "strength=0,1", "--mode", mode) == 0
    assert len(list((tmp_path / "out").glob("000?.png"))) == 4


COLLAGE = ("--layout", "auto", "--mode", "collage", "--n", "1")
BOTH = ("--adapter", "a.safetensors", "--adapter", "b.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*BOTH, "--prompt", "a sks dog"), "names no subject of b.safetensors"),
        (("--adapter", "a.safetensors", "--prompt", "a sks dog"), "names 1: omit layout"),
        (("--prompt", "a dog"), "layout = auto places the subjects of adapters: give some"),
        ((*BOTH, "--prompt", PROMPT, "--region", "@0,0,1,1=x"), "finds the regions itself"),
        ((*BOTH, "--prompt", PROMPT, "--mode", "switch"), "mode = switch has no regions"),
        ((*BOTH, "--prompt", PROMPT, "--init", "x.png"), "draws a draft of its own"),
        ((*BOTH, "--prompt", PROMPT, "--layout", "automatic"), "layout"),
    ],
)
def test_what_cannot_be_laid_out(
    arguments: tuple[str, ...], message: str, call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path / "out", "--layout", "auto", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_subject_that_the_draft_does_not_show(
    call: Any, masks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "located", lambda *_, **__: 4 * torch.eye(4).expand(2, 4, 4))
    asked = (*BOTH, "--layout", "auto", "--seed", "7", "--n", "1")
    assert call(tmp_path / "out", *asked, "--prompt", PROMPT) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "the draft of seed 7 shows no separate place for 'xyz cat'" in error
    assert not (tmp_path / "out").exists()
    assert call(tmp_path / "out", *asked, "--prompt", "a xyz cat and a sks dog", "--mode", "collage") == 0
    assert "shows no separate place" in (error := " ".join(capsys.readouterr().err.split()))
    assert "all subjects are placed side by side" in error
    assert _regions(tmp_path / "out") == [([0, 0, 0.5, 1], "a xyz cat"), ([0.5, 0, 1, 1], "a sks dog")]


def _regions(folder: Path) -> list[tuple[list[float], str]]:
    with Image.open(folder / "0000.png") as picture:
        return [(it["box"], it["prompt"]) for it in json.loads(picture.info["dreamtune"])["regions"]]


def test_a_collage_needs_no_draft_where_the_prompt_gives_sides(
    call: Any, masks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "located", lambda *_, **__: pytest.fail("a draft was looked at"))
    there = "a xyz cat on the right and a sks dog on the left"
    assert call(tmp_path / "out", *BOTH, *COLLAGE, "--prompt", there) == 0
    assert _regions(tmp_path / "out") == [([0.5, 0, 1, 1], "a xyz cat"), ([0, 0, 0.5, 1], "a sks dog")]


def test_a_collage_has_strips_of_one_width(
    call: Any, masks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft's own subjects are taken out of it: how wide they were does not matter."""
    maps = torch.ones(2, 8, 8)
    maps[0, :, 5:] = maps[1, :, :5] = 3
    monkeypatch.setattr(layout, "located", lambda *_, **__: maps / 2)
    assert call(tmp_path / "out", *BOTH, *COLLAGE, "--prompt", PROMPT) == 0
    assert _regions(tmp_path / "out") == [
        ([0.5, 0, 1, 1], "a sks dog on the beach"),
        ([0, 0, 0.5, 1], "a xyz cat on the beach"),
    ]


def test_pictures_that_differ_in_denoise_share_their_collage(
    call: Any, halves: None, masks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (*BOTH, "--prompt", PROMPT, "--layout", "auto", "--n", "1", "--mode", "collage")
    assert call(tmp_path / "out", *asked, "--grid", "denoise=0.5,1") == 0
    assert "collage 1/1" in capsys.readouterr().err
    little, all_of_it = (tmp_path / "out" / f"000{number}.png" for number in (0, 1))
    with Image.open(little) as one, Image.open(all_of_it) as two:
        assert ImageChops.difference(one, two).getbbox()
        assert [json.loads(it.info["dreamtune"])["denoise"] for it in (one, two)] == [0.5, 1]


@pytest.mark.parametrize(
    ("shown", "problem"), [(0.0, "would cover 0.0% of the image"), (1.0, "would cover 100.0% of the image")]
)
def test_a_subject_that_cannot_be_cut_out(
    shown: float,
    problem: str,
    call: Any,
    halves: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collage, "drawn_mask", lambda *_: np.full((8, 8), bool(shown)))
    asked = ("--layout", "auto", "--seed", "7", "--n", "1", "--mode", "collage")
    assert call(tmp_path / "out", *BOTH, "--prompt", PROMPT, *asked) == 2
    error = " ".join(capsys.readouterr().err.split("Error: ")[1].split())
    assert error.startswith("the dog of region 1, generated alone from seed 7,")
    assert problem in error and "mode = routed" in error
    assert not (tmp_path / "out").exists()


def test_a_collage_of_an_adapter_that_tells_no_class(
    call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    region = ("--region", "style.safetensors@0,0,0.5,1=a dog", "--mode", "collage")
    assert call(tmp_path / "out", "--prompt", "a beach", *region) == 2
    assert "its class is not recorded in style.safetensors: use mode = routed" in capsys.readouterr().err
    assert call(tmp_path / "out", "--prompt", "a beach", "--mode", "collage") == 2
    assert "mode = collage is for regions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
