"""Grids, windows of steps, modes of several adapters, and pictures to start from."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from dreamtune.errors import ConfigError, DreamtuneError
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.generate.config import read_prompts
from dreamtune.pipelines.generate.grid import Axis, axes_of
from dreamtune.pipelines.generate.metadata import again
from dreamtune.pipelines.generate.run import GenerateConfig
from dreamtune.pipelines.train.run import TrainResult


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def told(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        picture.load()
        return json.loads(picture.info["dreamtune"])


def test_grid_draws_every_value_and_a_sheet_of_them(draw: Any, trained: TrainResult) -> None:
    result = draw(grid=["strength=0,0.5,1", "guidance=1,3"], prompts=["a sks dog", "a dog"], n=2)
    made = [told(path) for path in result.files]
    rows = [(prompt, guidance, seed) for prompt in ("a sks dog", "a dog") for guidance in (1, 3) for seed in (3, 4)]
    found = [(it["prompt"], it["guidance"], it["seed"], it["adapters"][0]["strength"]) for it in made]
    assert found == [(*row, strength) for row in rows for strength in (0, 0.5, 1)]
    assert result.sheet and result.sheet.name == "0000-grid.png"
    assert told(result.sheet)["pictures"] == [path.name for path in result.files]
    with Image.open(result.sheet) as sheet:
        assert sheet.width == 3 * (160 + 12) + 12 and sheet.height > 8 * 160  # pictures of 32 pixels, five times
    one = draw("one", adapters=[f"{trained.adapter}:0.5"], prompts=["a dog"], guidance=3, seed=4)
    assert pixels(one.files[0]) == pixels(result.files[found.index(("a dog", 3, 4, 0.5))])
    assert draw("grid2", grid=["seed=7,9"]).seeds == (7, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": ["strenth=1,2"]}, "unknown axis in the grid .*; did you mean 'strength'"),
        ({"grid": ["steps=2,,3"]}, "use NAME=VALUE,VALUE"),
        ({"grid": ["strength"]}, "use NAME=VALUE,VALUE"),
        ({"grid": ["strength=1,nan"]}, "the strength 'nan' in the grid .* is not a number"),
        ({"grid": ["steps=0,2"]}, "steps = '0'"),
        ({"grid": ["steps=2", "steps=3"]}, "both axes of the grid are steps"),
        ({"grid": ["steps=2", "seed=3", "guidance=1"]}, "grid = "),
        ({"grid": ["seed=1,2"], "n": 2}, "omit n"),
        ({"grid": ["strength=0,1"], "adapters": []}, "the axis strength needs an adapter"),
        ({"grid": ["denoise=0.5"]}, "give init too"),
        ({"grid": ["scheduler=ddim,nothing"]}, "scheduler = 'nothing' must be auto or one of ddim"),
        ({"denoise": 0.5}, "give init too"),
        ({"seed": 2**32 - 1, "prompts": ["a", "b"]}, "2 images from seed 4294967295 on need seeds above"),
        ({"seed": 2**32 - 2, "n": 3, "grid": ["guidance=1,2"]}, "3 images from seed 4294967294 on need seeds above"),
        ({"init": "none.png"}, "the image none.png cannot be read"),
        ({"mode": "composite"}, "mode = composite is for several adapters"),
    ],
)
def test_what_cannot_be_drawn_writes_nothing(draw: Any, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DreamtuneError, match=message) as caught:
        draw(**changes)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_last_seed_can_be_drawn_again(draw: Any) -> None:
    result = draw(seed=2**32 - 1, adapters=[])
    assert again(result.files[0], base="pocket").seed == result.seeds[0] == 2**32 - 1
    assert draw("axis", seed=2**32 - 1, grid=["seed=1,2"]).seeds == (1, 2)


def test_labels_say_what_is_compared() -> None:
    config = GenerateConfig(prompts=("x",), adapters=("a.safetensors",), grid=("strength=0,0.25", "seed=3,4"))
    across, down = axes_of(config)
    assert [across.label(value) for value in across.values] == ["strength 0", "strength 0.25"]
    assert [down.label(value) for value in down.values] == ["seed 3", "seed 4"]
    assert Axis.parse("scheduler=ddim, euler", config).values == ("ddim", "euler")


def test_an_adapter_acts_in_its_window_of_the_steps(draw: Any, trained: TrainResult) -> None:
    def of(window: str, **changes: Any) -> bytes:
        (path,) = draw(window or "whole", adapters=[f"{trained.adapter}:0.8{window}"], steps=4, **changes).files
        return pixels(path)

    whole, none = of(""), pixels(draw("none", adapters=[], steps=4).files[0])
    early, late = of("@0.0-0.5"), of("@0.5-1.0")
    assert of("@0-1") == whole
    assert len({whole, none, early, late}) == 4
    made = told(draw("told", adapters=[f"{trained.adapter}@0.25-0.5"], steps=4).files[0])
    assert made["adapters"][0]["window"] == [0.25, 0.5]


def test_steps_of_a_window_are_those_that_begin_in_it(trained: TrainResult) -> None:
    use = AdapterRef.load(f"{trained.adapter}@0.0-0.7", windows=True)
    assert [step for step in range(20) if use.acts(step, 20)] == list(range(14))
    assert [step for step in range(3) if use.acts(step, 3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("@0.7-0.2", "invalid step window '0.7-0.2' of .*: use e.g. @0.0-0.7"),
        ("@0.5-1.5", "invalid step window"),
        ("@0.5", "invalid step window"),
        (":x@0-1", "the strength 'x' of .* is not a number"),
        ("@0.6-0.9", "the step window 0.6-0.9 of adapter.safetensors contains none of the 2 steps: widen it"),
    ],
)
def test_windows_that_cannot_be(draw: Any, trained: TrainResult, tmp_path: Path, window: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(adapters=[f"{trained.adapter}{window}"])
    assert list(tmp_path.iterdir()) == []


def test_a_window_has_no_meaning_where_nothing_is_drawn(trained: TrainResult, tmp_path: Path, capsys: Any) -> None:
    text = f"{trained.adapter}@0.0-0.7"
    assert main(["fuse", text, str(trained.adapter), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "which only `dreamtune generate` supports: omit it" in capsys.readouterr().err


def test_adapters_apart(draw: Any, trained: TrainResult) -> None:
    """Of one adapter twice: by turns or by the mean it acts once, added up twice."""
    two = [f"{trained.adapter}:20", f"{trained.adapter}:60"]
    found = {mode: pixels(draw(mode, adapters=two, steps=6, mode=mode).files[0]) for mode in ("switch", "composite")}
    found["routed"] = pixels(draw("sum", adapters=two, steps=6).files[0])
    found["first"] = pixels(draw("first", adapters=two[:1], steps=6).files[0])
    assert len(set(found.values())) == 4
    same = [str(trained.adapter)] * 2
    once = draw("once", steps=6).files[0]
    for mode in ("switch", "composite"):
        (path,) = draw(f"{mode} twice", adapters=same, steps=6, mode=mode).files
        with Image.open(path) as picture, Image.open(once) as plain:
            assert max(ImageChops.difference(picture, plain).tobytes()) <= 1
        assert told(path)["mode"] == mode


def test_adapters_of_the_same_word_are_remarked(draw: Any, trained: TrainResult, tmp_path: Path) -> None:
    from dreamtune.adapters import AdapterFile

    file = AdapterFile.load(trained.adapter)
    file.tensors[next(iter(file.tensors))].mul_(0.5)
    file.save(tmp_path / "other.safetensors")
    (remark,) = draw(adapters=[str(trained.adapter), str(tmp_path / "other.safetensors")]).remarks
    assert "both use the token 'sks': if they are different subjects, no prompt can tell them apart" in remark
    assert draw("same", adapters=[str(trained.adapter)] * 2).remarks == ()


def test_from_a_picture_the_less_is_left_of_it_the_more_is_denoised(draw: Any, tmp_path: Path) -> None:
    init = tmp_path / "init.png"
    Image.linear_gradient("L").resize((64, 48)).save(init)
    result = draw(init=init, denoise=0.5, steps=4)
    assert result.remarks == ("init.png is 64x48: it is center-cropped and resized to 32x32",)
    assert (told(result.files[0])["init"]["file"], told(result.files[0])["denoise"]) == ("init.png", 0.5)
    more = draw("more", init=init, denoise=1.0, steps=4).files[0]
    plain = draw("plain", steps=4).files[0]
    assert len({pixels(path) for path in (result.files[0], more, plain)}) == 3
    with pytest.raises(ConfigError, match="denoise = 0.1 leaves none of 4 steps"):
        draw("none", init=init, denoise=0.1, steps=4)


def test_scheduler_by_name(draw: Any) -> None:
    own, ddim, euler = (draw(name, scheduler=name, steps=4).files[0] for name in ("auto", "ddim", "euler"))
    assert pixels(own) == pixels(ddim) != pixels(euler)
    assert (told(own)["sampler"], told(euler)["sampler"], told(euler)["scheduler"]) == ("DDIM", "euler", "euler")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # the latter is Windows Notepad's
def test_prompts_of_a_file(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# places\na sks dog on the beach\n\n  a sks dog at night \n", encoding=encoding)
    assert read_prompts(path) == ["a sks dog on the beach", "a sks dog at night"]
    path.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no prompt: write one per line"):
        read_prompts(path)
    with pytest.raises(ConfigError, match="cannot read the prompts"):
        read_prompts(tmp_path)
