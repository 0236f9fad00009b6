"""Regions by command: boxes and masks, several adapters in one, and what cannot be."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw

from dreamtune.adapters import AdapterFile, NewToken, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.generation.masks import box_mask
from dreamtune.models import load_base
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.generate.regions import RegionUse, place_regions
from tests.adapters.nets import disturb


@pytest.fixture(scope="module")
def files(tiny: Path, tiny_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the adapters a and b of the tiny base, with the words sks and xyz, and xl of the tiny SDXL base."""
    folder = tmp_path_factory.mktemp("adapters")
    for base, names in ((tiny, {"a": "sks", "b": "xyz"}), (tiny_sdxl, {"xl": "sks"})):
        unet = load_base(base, "cpu").unet
        for seed, (name, word) in enumerate(names.items()):
            with attach(unet, LoRAConfig(rank=2, alpha=2.0)) as attached:
                for index, (_, layer, it) in enumerate(attached.layers()):
                    disturb(it, layer.base_weight, 100 * seed + index)
                about = {"base": base.name, "token": word, "class_word": "dog", "training": {}}
                AdapterFile.from_attached(attached, **about).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def draw(
    tiny: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Image.Image, list[str]]]:
    """Draw one picture where the adapters are; the picture and the remarks."""
    monkeypatch.chdir(files)

    def call(*arguments: str, base: Path = tiny) -> tuple[Image.Image, list[str]]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        common = ["--base", str(base), "--n", "1", "--steps", "2", "--device", "cpu", "--out", str(out), "--json"]
        assert main(["generate", *common, *arguments]) == 0
        with Image.open(out / "0000.png") as picture:
            picture.load()
        return picture, json.loads(capsys.readouterr().out)["remarks"]

    return call


def apart(one: Image.Image, other: Image.Image) -> int:
    """Levels of the largest difference."""
    return max(ImageChops.difference(one, other).tobytes())


@pytest.mark.parametrize("mode", ["routed", "blend"])
def test_the_whole_picture_is_plain_generation(draw: Any, mode: str) -> None:
    plain, _ = draw("--prompt", "a sks dog", "--adapter", "a.safetensors:0.5")
    whole, remarks = draw("--prompt", "a beach", "--region", "a.safetensors:0.5@0,0,1,1=a sks dog", "--mode", mode)
    half, _ = draw("--prompt", "a beach", "--region", "a.safetensors:0.5@0,0,0.5,1=a sks dog", "--mode", mode)
    assert remarks == []
    assert apart(plain, whole) <= 1 < apart(plain, half)
    told = json.loads(half.info["dreamtune"])
    (region,) = told["regions"]
    assert (region["box"], region["prompt"], told["softness"]) == ([0, 0, 0.5, 1], "a sks dog", 0.05)
    assert [(it["file"], it["strength"]) for it in region["adapters"]] == [("a.safetensors", 0.5)]
    assert told.get("mode", "routed") == mode


def test_of_sdxl_too_where_a_pass_of_its_own_also_has_the_whole_prompt(draw: Any, tiny_sdxl: Path) -> None:
    fp32 = ("--precision", "fp32")
    plain, _ = draw(*fp32, "--prompt", "a sks dog", "--adapter", "xl.safetensors", base=tiny_sdxl)
    region = ("--region", "xl.safetensors@0,0,1,1=a sks dog")
    same, _ = draw(*fp32, "--prompt", "a sks dog", *region, base=tiny_sdxl)
    blend, _ = draw(*fp32, "--prompt", "a beach", *region, "--mode", "blend", base=tiny_sdxl)
    routed, _ = draw(*fp32, "--prompt", "a beach", *region, base=tiny_sdxl)
    assert apart(plain, same) <= 1
    assert apart(plain, blend) <= 1 < apart(plain, routed), "the pooled prompt acts on the whole picture"


def test_several_adapters_in_a_region_are_those_side_by_side(draw: Any) -> None:
    both, _ = draw("--prompt", "sks xyz", "--adapter", "a.safetensors:0.5", "--adapter", "b.safetensors")
    region, _ = draw("--prompt", "-", "--region", "a.safetensors:0.5+b.safetensors@box=0,0,1,1=sks xyz")
    one, _ = draw("--prompt", "-", "--region", "a.safetensors:0.5@0,0,1,1=sks xyz")
    assert apart(both, region) <= 1 < apart(one, region)


def test_a_region_may_be_the_base_alone(draw: Any) -> None:
    plain, _ = draw("--prompt", "a dog")
    region, _ = draw("--prompt", "a beach", "--region", "@0,0,1,1=a dog")
    assert apart(plain, region) <= 1


def test_a_mask_is_a_region_and_is_resized_to_the_picture(draw: Any, tmp_path: Path) -> None:
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 63), fill=255)
    mask.save(tmp_path / "left.png")
    box, none = draw("--prompt", "x", "--region", "a.safetensors@0,0,0.5,1=a sks dog", "--softness", "0")
    painted, remarks = draw(
        "--prompt", "x", "--region", f"a.safetensors@{tmp_path / 'left.png'}=a sks dog", "--softness", "0"
    )
    assert none == []
    assert remarks == ["the mask left.png is 64x64, the image 32x32: the mask is resized"]
    assert apart(box, painted) <= 1
    assert json.loads(painted.info["dreamtune"])["regions"][0]["mask"]["file"] == "left.png"
    (soft,) = [RegionUse.load(f"@{tmp_path / 'left.png'}=x").mask(0.2)]
    torch.testing.assert_close(soft, box_mask((0, 0, 0.5, 1), (256, 256), 0.2), rtol=0, atol=0.03)


def test_overlap_and_a_prompt_without_the_word_are_remarked(draw: Any) -> None:
    _, remarks = draw(
        "--prompt", "x", "--region", "a.safetensors@0,0,0.5,1=a sks dog", "--region", "b.safetensors@0.25,0,1,1=a dog"
    )
    assert remarks == [
        "the regions 1 and 2 overlap on 25% of the image: they are averaged there",
        "the prompt of region 2 does not contain 'xyz', the token of b.safetensors: use e.g. 'a xyz dog'",
    ]


@pytest.mark.parametrize("mode", ["routed", "blend"])
def test_an_adapter_acts_in_its_region_within_its_window(draw: Any, mode: str) -> None:
    def of(text: str) -> Image.Image:
        return draw("--prompt", "x", "--mode", mode, "--steps", "4", "--region", text)[0]

    whole, early = of("a.safetensors@0,0,1,1=a sks dog"), of("a.safetensors@0.0-0.5@0,0,1,1=a sks dog")
    late, none = of("a.safetensors@0.5-1@0,0,1,1=a sks dog"), of("a.safetensors:0@0,0,1,1=a sks dog")
    assert apart(whole, of("a.safetensors@0-1@0,0,1,1=a sks dog")) == 0
    assert len({it.tobytes() for it in (whole, early, late, none)}) == 4
    plain = draw("--prompt", "a sks dog", "--steps", "4", "--adapter", "a.safetensors@0.0-0.5")[0]
    assert apart(early, plain) <= 1


def test_each_prompt_is_read_by_its_adapters_own_text_encoder_and_word(tiny: Path, tmp_path: Path) -> None:
    base = load_base(tiny, "cpu")
    prompts = ["a sks dog", "a dog"]
    plain = [it.embedding for it in base.condition(prompts)]
    word = NewToken("sks", {"text_encoder": torch.full((2, 32), 0.5)})
    parts = {
        "unet": attach(base.unet, LoRAConfig(rank=2)),
        "text_encoder": attach(base.text_encoder, LoRAConfig(rank=2), "text"),
    }
    for index, (_, layer, it) in enumerate(at for part in parts.values() for at in part.layers()):
        disturb(it, layer.base_weight, index)
    about = {"base": "", "token": "sks", "class_word": "", "training": {}}
    file = AdapterFile.from_attached(
        parts["unet"], text_encoders={"text_encoder": parts["text_encoder"]}, word=word, **about
    )
    for part in parts.values():
        part.detach()
    file.save(tmp_path / "a.safetensors")
    with base.attach(file):
        expected = base.condition(prompts[:1])[0].embedding

    def placed(*texts: str) -> list[Any]:
        uses = [RegionUse.load(f"{tmp_path / 'a.safetensors'}:{text}") for text in texts]
        return [it.region for it in place_regions(uses, [use.mask(0) for use in uses], base)]

    own, without, less = placed(f"1@0,0,1,1={prompts[0]}", f"0@0,0,1,1={prompts[1]}", "0.5,mid=0@0,0,1,1=x")
    torch.testing.assert_close(own.embedding, expected, rtol=1e-5, atol=1e-5)
    assert (own.embedding - plain[0]).abs().max() > 0.1
    assert torch.equal(without.embedding, plain[1])
    assert own.deltas.keys() == parts["unet"].adapters.keys(), "changes of text encoders are in the embedding alone"
    assert not any(delta.dense().any() for delta in without.deltas.values())
    for path, delta in less.deltas.items():
        factor = 0.0 if path.startswith("mid_block") else 0.5
        torch.testing.assert_close(delta.dense(), own.deltas[path].dense() * factor)


@pytest.mark.parametrize(
    "region, message",
    [
        ("a.safetensors@0,0,1=a dog", "use four numbers"),
        ("a.safetensors@0,0,1,x=a dog", "use four numbers"),
        ("a.safetensors@none.png=a dog", "or an existing mask image"),
        ("a.safetensors@black.png=a dog", "black.png is all black: paint the region white"),
        ("a.safetensors@broken.png=a dog", "broken.png is not a readable image"),
        ("a.safetensors@0,0,2,1=a dog", "reaches outside the image"),
        ("a.safetensors@nan,0,1,1=a dog", "reaches outside the image"),
        ("a.safetensors@0,0,0,1=a dog", "has no area"),
        ("a.safetensors", "use FILE@x0,y0,x1,y1=PROMPT"),
        ("a.safetensors:nan@0,0,1,1=a dog", "is not a number"),
        ("a.safetensors+none.safetensors@0,0,1,1=a dog", "no adapter file none.safetensors"),
        ("a.safetensors+@0,0,1,1=a dog", "empty adapter file name"),
        ("a.safetensors@0.5-0.2@0,0,1,1=a dog", "invalid step window '0.5-0.2' of a.safetensors"),
        ("xl.safetensors@0,0,1,1=a dog", "xl.safetensors: .*for another kind of base"),
    ],
)
def test_bad_regions_draw_nothing(
    region: str,
    message: str,
    tiny: Path,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in files.iterdir():
        Path(file.name).symlink_to(file)
    Image.new("L", (32, 32)).save("black.png")
    Path("broken.png").write_text("no picture")
    arguments = ["--base", str(tiny), "--prompt", "x", "--region", region, "--out", "out", "--device", "cpu"]
    assert main(["generate", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error.replace("\n", " ")), error
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--mode", "blend"), "mode = blend is for regions"),
        (("--mode", "switch", "--adapter", "a.safetensors"), "mode = switch is for several adapters"),
        (("--mode", "both"), "mode = 'both': must be"),
        (("--softness", "2"), "softness = 2"),
    ],
)
def test_modes_that_do_not_fit(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--prompt", "x", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
