"""Pictures say how they were made, can be made again, and never replace others."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dreamtune.adapters import AdapterFile
from dreamtune.errors import (
    AdapterFileError,
    BaseModelError,
    ConfigError,
    DreamtuneError,
    GenerationError,
    IncompatibleModelError,
)
from dreamtune.models import Base, hub
from dreamtune.pipelines.adapter_names import parse
from dreamtune.pipelines.adapter_ref import AdapterRef, base_name
from dreamtune.pipelines.generate.run import GenerateConfig, generate
from dreamtune.pipelines.progress import Progress
from dreamtune.pipelines.train.run import TrainResult
from tests.tiny_models import tiny_folder


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_pictures_tell_how_they_were_made(draw: Any, trained: TrainResult, tmp_path: Path) -> None:
    result = draw(prompts=["a sks dog", "näher: sks"], n=2, adapters=[f"{trained.adapter}:0.5"], negative_prompt="cat")
    assert [path.name for path in result.files] == ["0000.png", "0001.png", "0002.png", "0003.png"]
    assert (result.seeds, result.base, result.steps, result.guidance) == ((3, 4, 5, 6), "tiny", 2, 2.5)
    with Image.open(result.files[2]) as picture:
        picture.load()
        assert picture.size == (32, 32)
        texts = dict(picture.info)
    made = json.loads(texts["dreamtune"])
    digest = hashlib.sha256(trained.adapter.read_bytes()).hexdigest()
    assert made.pop("version")
    assert made == {
        "prompt": "näher: sks",
        "negative_prompt": "cat",
        "seed": 5,
        "steps": 2,
        "guidance": 2.5,
        "size": 32,
        "sampler": "DDIM",
        "scheduler": "auto",
        "base": "tiny",
        "precision": "fp32",
        "adapters": [{"file": "adapter.safetensors", "strength": 0.5, "sha256": digest}],
    }
    first, second, third = texts["parameters"].split("\n")
    assert (first, second) == ("näher: sks", "Negative prompt: cat")
    assert third.startswith(
        "Steps: 2, Sampler: DDIM, CFG scale: 2.5, Seed: 5, Size: 32x32, Model: tiny, Version: dream"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in result.files]


def test_seed_decides_and_numbers_go_on(draw: Any) -> None:
    both = draw(n=2)
    again = draw(seed=4)
    assert [path.name for path in again.files] == ["0002.png"]
    assert pixels(again.files[0]) == pixels(both.files[1]) != pixels(both.files[0])
    (both.files[0].parent / "0041.png").touch()
    assert draw().files[0].name == "0042.png"


def test_strength_zero_is_the_base_and_adapters_add_up(draw: Any, trained: TrainResult) -> None:
    plain = pixels(draw("plain", adapters=[]).files[0])
    assert pixels(draw("zero", adapters=[f"{trained.adapter}:0"]).files[0]) == plain
    full = pixels(draw("full").files[0])
    assert full != plain
    halves = draw("halves", adapters=[f"{trained.adapter}:0.5", f"{trained.adapter}:0.5"])
    difference = [abs(a - b) for a, b in zip(pixels(halves.files[0]), full, strict=True)]
    assert max(difference) <= 1


def test_pictures_of_two_at_once_keep_out_of_each_others_way(
    draw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While these are drawn, another process writes 0001.png, and leaves a sheet of a grid."""
    plain = Base.to_pictures

    def meanwhile(self: Base, latents: torch.Tensor) -> list[Image.Image]:
        for name in ("0001.png", "0000-grid.png"):
            Image.new("RGB", (8, 8)).save(tmp_path / "out" / name)
        return plain(self, latents)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Base, "to_pictures", meanwhile)
    result = draw(n=3, grid=["guidance=1,2"])
    assert result.sheet is not None
    assert len({*result.files, result.sheet}) == 3 * 2 + 1
    for name in ("0001.png", "0000-grid.png"):
        assert tmp_path / "out" / name not in (*result.files, result.sheet)
        with Image.open(tmp_path / "out" / name) as kept:
            assert kept.size == (8, 8)
    assert all(path.is_file() for path in (*result.files, result.sheet))


def test_prompt_without_the_trigger_is_remarked(draw: Any) -> None:
    (remark,) = draw(prompts=["a dog"]).remarks
    assert remark.startswith("no prompt contains 'sks'")
    assert draw().remarks == ()


def test_adapter_of_another_base(draw: Any, tmp_path: Path, trained: TrainResult) -> None:
    other = tiny_folder(tmp_path / "other")
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(
        IncompatibleModelError, match=r"adapter\.safetensors: .* other weights .*trained on the base 'tiny'"
    ):
        draw(base=str(other))
    assert not (tmp_path / "out").exists()
    assert draw(base=str(other), any_base=True).base == "other"


def test_auto_base_is_the_adapters_own(
    draw: Any, tiny: Path, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert draw("by-run", base="auto").base == "tiny"  # where it is stands in the settings of the run
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(trained.adapter.read_bytes())
    not_here = r"trained on the base 'tiny', a local folder or file that is not here: set base to its path"
    with pytest.raises(ConfigError, match=not_here):
        draw("alone", base="auto", adapters=[str(alone)])
    monkeypatch.chdir(tiny.parent)
    assert draw("alone", base="auto", adapters=[str(alone)]).base == "tiny"
    file = AdapterFile.load(trained.adapter)
    replace(file, base="pocket").save(tmp_path / "pocket.safetensors")
    with pytest.raises(ConfigError, match=r"different bases \(pocket, tiny\): set the base to use"):
        draw(base="auto", adapters=[str(trained.adapter), str(tmp_path / "pocket.safetensors")])


def test_no_file_decides_what_is_downloaded(
    draw: Any, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("the hub is asked"))
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("downloaded"))
    replace(AdapterFile.load(trained.adapter), base="someone/model").save(tmp_path / "x.safetensors")
    words = "someone/model is not on this machine, and a file alone never triggers a download.* --base someone/model"
    with pytest.raises(DreamtuneError, match=words):
        draw(base="auto", adapters=[str(tmp_path / "x.safetensors")])
    assert not (tmp_path / "out").exists()


def test_no_file_names_a_path_as_its_base(trained: TrainResult) -> None:
    use = AdapterRef.load(str(trained.adapter))
    for base in ("/etc/passwd", "../tiny", "a/b/c", "a/../b", "..", ".", "~", "~root", "https://x.example/model", "x/"):
        with pytest.raises(ConfigError, match="records the invalid base name .*: use --base"):
            base_name([replace(use, file=replace(use.file, base=base))])


def test_nan_is_an_error_and_one_colour_a_remark(draw: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Base, "to_pictures", lambda self, latents: [Image.new("RGB", (32, 32))] * len(latents))
    assert "0000.png is a single color: lower the adapter strengths" in draw().remarks[0]
    monkeypatch.setattr(Base, "draw", lambda *_, **__: torch.full((1, 4, 8, 8), torch.nan))
    with pytest.raises(GenerationError, match="seed 3 came out as NaN: lower the adapter strengths") as caught:
        draw("nan")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "nan").exists()


def test_too_little_memory_is_an_error_that_says_so(draw: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Base, "draw", lambda *_, **__: torch.empty(2**58))
    with pytest.raises(GenerationError, match="not enough device memory for size = 32: lower size"):
        draw()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"prompts": []}, ConfigError, "prompts"),
        ({"size": 50}, ConfigError, "size = 50 must be a multiple of 8; try 48"),
        ({"steps": 0}, ConfigError, "steps = 0"),
        ({"steps": 1000}, ConfigError, "steps = 1000"),
        ({"guidanc": 3}, ConfigError, "unknown setting 'guidanc'; did you mean 'guidance'"),
        ({"base": "nowhere"}, BaseModelError, "no base model 'nowhere'"),
        ({"adapters": ["none.safetensors:0.5"]}, AdapterFileError, "no adapter file none.safetensors: check"),
        ({"adapters": ["none.safetensors:half"]}, AdapterFileError, "no adapter file none.safetensors:half"),
    ],
)
def test_bad_input_writes_nothing(
    draw: Any, tmp_path: Path, changes: dict[str, Any], kind: type[DreamtuneError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        draw(**changes)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be(draw: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        draw("file/out")


def test_names_with_colons(tmp_path: Path, trained: TrainResult) -> None:
    odd = tmp_path / "c:1.5"
    shutil.copy(trained.adapter, odd)
    assert parse(str(odd)) == (odd, 1.0, {})
    assert parse(f"{odd}:-2e-1") == (odd, -0.2, {})
    assert parse("a.safetensors") == (Path("a.safetensors"), 1.0, {})
    for number in ("inf", "nan", "x", ""):
        with pytest.raises(ConfigError, match="is not a number"):
            parse(f"{odd}:{number}")


def test_progress(draw: Any, tiny: Path, tmp_path: Path) -> None:
    told = list[Progress]()
    config = GenerateConfig(prompts=("x",), base=str(tiny), n=10, steps=1, device="cpu")
    generate(config, tmp_path / "out", on_progress=told.append)
    assert [(p.phase, p.done, p.total) for p in told] == [("draw", 8, 10), ("draw", 10, 10)]


def test_adapter_of_another_tool(tiny: Path, tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "x.safetensors"
    save_file({f"{name}.lora_up.weight": torch.ones(32, 1), f"{name}.lora_down.weight": torch.ones(1, 32)}, path)
    options: dict[str, Any] = {"prompts": ("a dog",), "n": 1, "steps": 1, "device": "cpu"}
    plain = generate(GenerateConfig(**options, base=str(tiny)), tmp_path / "plain")
    result = generate(GenerateConfig(**options, base=str(tiny), adapters=(f"{path}:0.5",)), tmp_path / "adapted")
    assert result.remarks == ("x.safetensors: the file has no alpha for 1 layers: the rank is assumed",)
    assert plain.files[0].read_bytes() != result.files[0].read_bytes()
    with pytest.raises(ConfigError, match="does not record its base: set the base"):
        generate(GenerateConfig(**options, adapters=(str(path),)), tmp_path / "none")
    assert not (tmp_path / "none").exists()
