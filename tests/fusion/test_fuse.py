"""`dreamtune fuse`: what is written acts as it should, what it tells, what it refuses."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.formats import read_adapter
from dreamtune.fusion import FUSIONS
from dreamtune.models import Base, load_base
from dreamtune.pipelines import library
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.export.run import export
from tests.adapters.nets import disturb
from tests.tiny_models import tiny_checkpoint, tiny_folder

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def file_on(base: Base, tiny: Path) -> Callable[..., AdapterFile]:
    """An adapter as in the middle of a training, on the UNet of the base or of another; each is made once."""

    @cache
    def made(name: str, method: str, place: Path, token: str) -> AdapterFile:
        unet = base.unet if place == tiny else load_base(place, "cpu").unet
        with attach(unet, METHODS[method].config_class(rank=2), seed=len(name)) as attached:
            for index, (_, layer, adapter) in enumerate(attached.layers()):
                disturb(adapter, layer.base_weight, 100 * len(name) + index)
                for parameter in adapter.parameters():
                    parameter.data *= 0.3
            return AdapterFile.from_attached(attached, base=str(place), token=token, class_word="dog", training={})

    return made


@pytest.fixture
def make(file_on: Callable[..., AdapterFile], tiny: Path, tmp_path: Path) -> Make:
    """Write the file of such an adapter."""

    def made(name: str, method: str = "lora", token: str | None = None, base: Path = tiny) -> Path:
        path = tmp_path / f"{name}.safetensors"
        file_on(name, method, base, token or name).save(path)
        return path

    return made


def noise(unet: Any, *adapters: tuple[Path, float]) -> Tensor:
    """A UNet's output with adapters side by side, which are taken off again."""
    on = [read_adapter(path).file.attach(unet, strength, any_base=True) for path, strength in adapters]
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 32, generator=generator)
    with torch.no_grad():
        output = unet(x, 10, context).sample
    for attached in reversed(on):
        attached.detach()
    return output


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_sum_draws_as_adapters_side_by_side(tiny: Path, base: Base, tmp_path: Path, make: Make) -> None:
    a, bb = make("a"), make("bb", "dora")
    foreign = tmp_path / "foreign.safetensors"
    export(make("ccc", "loha"), foreign, "kohya")
    out = tmp_path / "out.safetensors"
    given = [f"{a}:0.7", str(bb), f"{foreign}:-0.5", "--base", str(tiny), "--rank", "64"]
    assert main(["fuse", *given, "--out", str(out)]) == 0
    close(noise(base.unet, (out, 1)), noise(base.unet, (a, 0.7), (bb, 1), (foreign, -0.5)))
    told = AdapterFile.load(out).training["fusion"]
    assert [(part["file"], part["trigger"], part["strength"]) for part in told["adapters"]] == [
        ("a.safetensors", "a", 0.7),
        ("bb.safetensors", "bb", 1.0),
        ("foreign.safetensors", read_adapter(foreign).file.token, -0.5),
    ]


def test_weights_by_block(tiny: Path, tmp_path: Path, make: Make) -> None:
    path, out = make("a"), tmp_path / "out.safetensors"
    assert main(["fuse", f"{path}:0.5,up.1=0,down.0=3", "--out", str(out)]) == 0
    fused, own = AdapterFile.load(out).adapters(), AdapterFile.load(path).adapters()
    factors = {"up_blocks.1": None, "down_blocks.0": 1.5, "mid_block": 0.5}
    meta = torch.empty(0)
    seen = set()
    for layer, adapter in own.items():
        block = next(block for block in factors if layer.startswith(block))
        seen.add(block)
        if factors[block] is None:
            assert layer not in fused
        else:
            torch.testing.assert_close(fused[layer].delta_weight(meta), factors[block] * adapter.delta_weight(meta))
    assert seen == factors.keys()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_command(fusion: str, tiny: Path, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, bb, out = str(make("a")), str(make("bb")), tmp_path / "out.safetensors"
    given = ["fuse", a, bb, "--method", fusion, "--rank", "3", "--steps", "1", "--base", str(tiny)]
    assert main([*given, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["exact"]) == (fusion, False)
    assert set(result["ranks"].values()) == {3}
    assert all(0 < share < 1 for share in result["energy"].values())
    kept = json.loads(json.dumps(AdapterFile.load(out).training["fusion"]["energy"]))
    assert kept == pytest.approx(result["energy"], abs=1e-4)
    assert main([*given, "--out", str(tmp_path / "o.safetensors")]) == 0
    assert "energy kept" in capsys.readouterr().out


def test_rank_full_keeps_all(
    tiny: Path, base: Base, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of changes that have no small factors."""
    a, bb, out = make("a", "dora"), make("bb", "loha"), tmp_path / "out.safetensors"
    given = ["fuse", f"{a}:0.5", str(bb), "--base", str(tiny), "--rank", "full"]
    assert main([*given, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exact"], told["least_energy_kept"], told["warning"], told["remarks"]) == (True, 1.0, None, [])
    fused = AdapterFile.load(out)
    assert (fused.method, fused.tokens) == ("full", ("a", "bb"))
    assert told["ranks"] == {path: min(record.shape) for path, record in fused.layers.items()}
    assert out.stat().st_size < 1.1 * sum(4 * it.shape[0] * it.shape[1] for it in fused.layers.values()) + 20_000
    close(noise(base.unet, (out, 1)), noise(base.unet, (a, 0.5), (bb, 1)))
    assert library.warning_of(out) is None


def test_what_a_layer_loses_is_told_first(
    tiny: Path, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    a, bb, out = make("a", "dora"), make("bb", "dora", token="A"), tmp_path / "out.safetensors"
    given = ["fuse", str(a), str(bb), "--base", str(tiny), "--rank", "2"]
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    first, second, *_ = printed.out.splitlines()
    assert re.fullmatch(
        r"warning +\d+ of \d+ layers keep less than 99% of the fusion, \S+ as little as \d+%: fuse with --rank full .*",
        first,
    )
    assert second.startswith(str(out))
    warning = first.removeprefix("warning").strip()
    assert f"remark: {warning}" in printed.err or warning in printed.err
    assert main([*given, "--out", str(tmp_path / "again.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert next(iter(told.items())) == ("warning", warning)
    assert f"{told['least_energy_kept']:.0%}" in warning
    assert library.warning_of(out) == warning  # which the app shows


@pytest.mark.parametrize("fusion", ["sum", "ties"])
def test_checkpoints_hold_all_of_it(fusion: str, tmp_path: Path, make: Make) -> None:
    checkpoint = tiny_checkpoint(tiny_folder(tmp_path / "folder"), tmp_path / "base.safetensors")
    a, bb = make("a", base=checkpoint), make("bb", base=checkpoint)
    out, adapter = tmp_path / "out.safetensors", tmp_path / "adapter.safetensors"
    options = ["--method", fusion, "--base", str(checkpoint)]
    assert main(["fuse", str(a), str(bb), *options, "--format", "checkpoint", "--out", str(out)]) == 0
    assert main(["fuse", str(a), str(bb), *options, "--rank", "64", "--out", str(adapter)]) == 0
    assert load_file(out).keys() == load_file(checkpoint).keys()
    out.with_suffix("").symlink_to(checkpoint.with_suffix(""))
    close(*(noise(load_base(it, "cpu").unet, *on) for it, on in ((out, []), (checkpoint, [(adapter, 1)]))))


def with_word(path: Path, token: str, *, value: float = 0.5, count: int = 2, width: int = 32) -> Path:
    """Another file of the same adapter, with embeddings of its token."""
    vectors = {token: {"text_encoder": torch.full((count, width), value)}}
    out = path.with_stem(f"{path.stem}-{token}")
    replace(AdapterFile.load(path), token=token).with_vectors(vectors).save(out)
    return out


def test_embeddings_of_one_adapter_go_along(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    plain, out = make("bb", token=""), tmp_path / "out.safetensors"
    first, second = with_word(make("a"), "sks"), with_word(make("ccc"), "xyz")
    assert main(["fuse", str(plain), str(first), f"{second}:0", "--out", str(out)]) == 0
    fused = AdapterFile.load(out)
    assert (fused.token, fused.embeddings) == ("sks", {"text_encoder": (2, 32)})
    assert torch.equal(fused.tensors["embedding.text_encoder"], torch.full((2, 32), 0.5))
    for given, message in (
        (
            [str(first), str(with_word(make("dddd"), "SKS"))],
            "both have embeddings for 'SKS', but a token can have only one set",
        ),
        ([str(first), str(with_word(make("ee"), "xyz", width=16))], "are of different bases: fuse adapters of one"),
        ([str(plain), str(first), "--format", "checkpoint"], "embeddings for 'sks' cannot be stored in a checkpoint"),
    ):
        assert main(["fuse", *given, "--out", str(tmp_path / "none.safetensors")]) == 2
        assert message in capsys.readouterr().err


def test_two_of_one_subject_are_fused_with_a_remark(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, out = make("a"), make("bb", token="A"), tmp_path / "out.safetensors"
    assert main(["fuse", f"{first}:0.5", f"{second}:0.5", "--out", str(out), "--json"]) == 0
    (remark,) = json.loads(capsys.readouterr().out)["remarks"]
    assert "a.safetensors and bb.safetensors share the token 'a'" in remark
    fused = AdapterFile.load(out)
    assert fused.subjects == (("a", "dog"),)
    weight = torch.empty(0)
    for path, adapter in fused.adapters().items():
        own = [AdapterFile.load(it).adapters()[path].delta_weight(weight) for it in (first, second)]
        torch.testing.assert_close(adapter.delta_weight(weight), (own[0] + own[1]) / 2, rtol=1e-5, atol=1e-6)


def test_a_fused_file_knows_all_its_subjects(
    tiny: Path, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is inspected, fused again, examined, and drawn with."""
    both, all_three = tmp_path / "both.safetensors", tmp_path / "three.safetensors"
    cat = AdapterFile.load(make("bb"))
    replace(cat, class_word="cat").save(tmp_path / "bb.safetensors")
    assert main(["fuse", str(make("a")), str(tmp_path / "bb.safetensors"), "--out", str(both)]) == 0
    assert main(["fuse", str(both), str(make("ccc")), f"{make('dddd')}:0", "--out", str(all_three)]) == 0
    assert AdapterFile.load(all_three).subjects == (("a", "dog"), ("bb", "cat"), ("ccc", "dog"))
    capsys.readouterr()
    assert main(["inspect", str(all_three)]) == 0
    assert "\nsubjects    a dog, bb cat, ccc dog\n" in capsys.readouterr().out
    pictures = ["--steps", "1", "--n", "1", "--base", str(tiny), "--out", str(tmp_path / "out")]
    assert main(["generate", "--adapter", str(all_three), "--prompt", "two at night", *pictures, "--json"]) == 0
    (remark,) = json.loads(capsys.readouterr().out)["remarks"]
    assert remark == (
        "no prompt contains 'a' or 'bb' or 'ccc', the tokens of three.safetensors: "
        "use e.g. 'a a dog and a bb cat and a ccc dog'"
    )
    assert main(["generate", "--adapter", str(all_three), "--prompt", "one BB", *pictures, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["remarks"] == []


def test_an_adapter_of_weight_zero_may_be_any(tmp_path: Path, make: Make) -> None:
    """It is of another base, of the same word, and of a method whose change depends on the base's weights."""
    other = make("bb", "dora", token="a", base=tiny_folder(tmp_path / "wide", width=48))
    out, alone = tmp_path / "out.safetensors", tmp_path / "alone.safetensors"
    assert main(["fuse", str(make("a")), f"{other}:0", "--out", str(out)]) == 0
    assert main(["fuse", str(tmp_path / "a.safetensors"), "--out", str(alone)]) == 0
    assert out.read_bytes() == alone.read_bytes()


BAD: list[tuple[Callable[[Make, Path], list[Any]], str]] = [
    (lambda make, folder: [f"{make('a')}:nan"], "'nan' of .* is not a number"),
    (lambda make, folder: [f"{make('a')}:x"], "'x' of .* is not a number"),
    (lambda make, folder: [f"{make('a')}:1,up.x=1"], "invalid block strength 'up.x=1' of "),
    (lambda make, folder: [f"{make('a')}:1,up.7=1"], "changes nothing in the block up.7"),
    (lambda make, folder: [f"{make('a')}:0"], "all adapters have the weight 0"),
    (lambda make, folder: [f"{make('a')}:0", "--format", "checkpoint"], "all adapters have the weight 0"),
    (lambda make, folder: [make("a"), "--method", "add"], "must be one of sum"),
    (lambda make, folder: [make("a"), "--density", "0.5"], "sum has no density"),
    (lambda make, folder: [make("a"), "--balance", "norm"], "balance"),
    *(
        (
            lambda make, folder, rank=rank: [make("a"), "--rank", rank],
            f"rank = .*{rank}.* whole number from 1, or full",
        )
        for rank in ("0", "-1", "1.5", "all", "9" * 20)
    ),
    (lambda make, folder: [make("a"), "--format", "checkpoint", "--base", "pocket"], "is not a single-file checkpoint"),
    (lambda make, folder: [folder / "none.safetensors"], "none.safetensors"),
    (
        lambda make, folder: [make("a"), make("bb", base=tiny_folder(folder / "wide", width=48))],
        "are for different bases: the layer .* is 32x32 in one, 32x48 in the other",
    ),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_input_writes_nothing(
    arguments: Callable[[Make, Path], list[Any]],
    message: str,
    tmp_path: Path,
    make: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(it) for it in arguments(make, tmp_path)]
    before = set(tmp_path.iterdir())
    assert main(["fuse", *given, "--out", str(tmp_path / "new" / "out.safetensors")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("when", ["--explain", "--queue"])
@pytest.mark.parametrize("text, message", [("{}:0", "have the weight 0"), ("{}:1,up.7=1", "in the block up.7")])
def test_weights_are_checked_before_all_else(
    when: str,
    text: str,
    message: str,
    tmp_path: Path,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DREAMTUNE_DATA", str(tmp_path / "data"))
    assert main(["fuse", text.format(make("a")), when, "--out", str(tmp_path / "out.safetensors")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("out, message", [("a.safetensors", "already exists"), ("out.bin", "ends in .safetensors")])
def test_places_that_will_not_do(
    out: str, message: str, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fuse", str(make("a")), "--out", str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err
