"""What export writes acts in diffusers as the adapter does here; errors are told; nothing is left of what fails."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamtune.adapters import METHODS, AdapterFile, attach
from dreamtune.adapters.formats import read_adapter
from dreamtune.errors import ConfigError, DreamtuneError, IncompatibleModelError
from dreamtune.models import Base, load_base
from dreamtune.pipelines.cli.app import main
from dreamtune.pipelines.export.run import ExportResult, export
from tests.adapters.nets import disturb
from tests.tiny_models import tiny_checkpoint, tiny_folder

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def models(tiny: Path) -> Base:
    """The base; what is put on it is taken off again."""
    return load_base(tiny, "cpu")


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Any:
    """diffusers' pipeline of the base, to be copied."""
    return StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None)


@pytest.fixture(scope="module")
def file_of(models: Base) -> Callable[..., AdapterFile]:
    """An adapter as in the middle of a training, on the UNet and if asked for the text encoder; each is made once."""

    @cache
    def made(method: str, text: bool, targets: str, **options: Any) -> AdapterFile:
        config = METHODS[method].config_class(**{"rank": 2, "alpha": 3.0, **options})
        attached = {"unet": attach(models.unet, config, targets)}
        if text:
            attached["text_encoder"] = attach(models.text_encoder, config, "text")
        for one in attached.values():
            for _, layer, adapter in one.layers():
                disturb(adapter, layer.base_weight)
                for parameter in adapter.parameters():
                    parameter.data *= 0.5
        texts = {part: on_model for part, on_model in attached.items() if part != "unet"}
        file = AdapterFile.from_attached(
            attached["unet"], base="tiny", token="sks", class_word="dog", training={}, text_encoders=texts
        )
        for one in attached.values():
            one.detach()
        return file

    return made


@pytest.fixture
def make(file_of: Callable[..., AdapterFile], tmp_path: Path) -> Make:
    """Write the file of such an adapter."""

    def made(method: str, *, text: bool = False, targets: str = "attn", **options: Any) -> Path:
        path = tmp_path / f"{method}.safetensors"
        file_of(method, text, targets, **options).save(path)
        return path

    return made


@torch.no_grad()
def noise(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 32, generator=generator)
    return unet(x, 10, context).sample


@torch.no_grad()
def embedding(text_encoder: Any) -> Tensor:
    return text_encoder(torch.arange(10)[None])[0]


def own(models: Base, path: Path) -> tuple[Tensor, Tensor]:
    """The UNet's and the text encoder's output with the adapter, as dreamtune has it."""
    attached = read_adapter(path).file.attach_parts(models.parts)
    outputs = noise(models.unet), embedding(models.text_encoder)
    for one in attached.values():
        one.detach()
    return outputs


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "form", "text"),
    [
        ("lora", "lora", True),
        ("lora-dash", "lora", True),
        ("spectral-a", "lora", True),
        ("spectral-r", "lora", True),
        ("lora", "peft", True),
        ("dora", "peft", True),
        ("lora", "kohya", True),
        ("lora-dash", "kohya", True),
        ("orthogonal", "kohya", True),
        ("spectral-a", "kohya", True),
        ("spectral-r", "kohya", True),
        ("spectral-a", "peft", True),
        *(("lora", form, False) for form in ("lora", "peft", "kohya")),
    ],
)
def test_diffusers_reads_the_same(
    method: str, form: str, text: bool, tiny: Path, models: Base, plain: Any, tmp_path: Path, make: Make
) -> None:
    """With a text encoder, which the UNet's part of a file does not depend on; each form also without."""
    path, out = make(method, text=text), tmp_path / "out.safetensors"
    result = export(path, out, form, base=str(tiny))
    pipe = deepcopy(plain)
    before = noise(pipe.unet), embedding(pipe.text_encoder)
    pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
    unet, encoder = own(models, path)
    same(noise(pipe.unet), unet)
    same(embedding(pipe.text_encoder), encoder)
    assert not torch.allclose(before[0], unet, atol=1e-2)
    assert torch.allclose(before[1], encoder, atol=1e-4) is not text
    assert (result.exact, result.method) == (True, method)
    assert result.written_as == ("dora" if method == "dora" else "lora")
    assert result.worst["relative_error"] < 1e-5  # pyright: ignore[reportOptionalOperand]


@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("lora", "lora"),
        ("spectral-a", "kohya"),
        ("dora", "peft"),
        ("lokr", "folder"),
        ("full", "kohya"),
        ("dora", "diffusers"),
        ("loha", "checkpoint"),
    ],
)
def test_convolutions(method: str, form: str, tiny: Path, tmp_path: Path, make: Make, models: Base, plain: Any) -> None:
    path, single = make(method, targets="all"), form == "checkpoint"
    base = tiny_checkpoint(tiny, tmp_path / "base.safetensors") if single else tiny
    out = tmp_path / ("base/out" if single else "out")
    if form not in ("folder", "diffusers"):
        out = out.with_suffix(".safetensors")
    result = export(path, out, "peft" if form == "folder" else form, base=str(base))
    file = AdapterFile.load(path)
    assert (result.exact, len(result.layers)) == (True, len(file.layers))
    assert sum(record.kernel == (3, 3) for record in file.layers.values()) > 10
    if method == "full":  # which diffusers does not read
        return
    pipe = deepcopy(plain)
    before = noise(pipe.unet)
    if single:
        (tmp_path / "base" / "out").symlink_to(tmp_path / "base")  # its configurations
        unet = load_base(out, "cpu").unet
    elif form == "folder":
        unet = PeftModel.from_pretrained(pipe.unet, str(out)).eval()
    elif form == "diffusers":
        unet = StableDiffusionPipeline.from_pretrained(out, safety_checker=None).unet
    else:
        pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
        unet = pipe.unet
    expected = own(models, path)[0]
    assert (noise(unet) - expected).norm() < 1e-3 * (before - expected).norm()


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_peft_reads_the_folder(method: str, tiny: Path, models: Base, plain: Any, tmp_path: Path, make: Make) -> None:
    path = make(method)
    assert export(path, tmp_path / "folder", "peft", base=str(tiny)).exact
    model = PeftModel.from_pretrained(deepcopy(plain.unet), str(tmp_path / "folder"))
    same(noise(model.eval()), own(models, path)[0])


@pytest.mark.parametrize(
    ("method", "form"),
    [*((method, "lora") for method in METHODS), ("dora", "kohya"), ("full", "kohya"), ("loha", "peft")],
)
def test_plain_lora_of_a_rank_tells_what_it_loses(
    method: str, form: str, tiny: Path, models: Base, plain: Any, tmp_path: Path, make: Make
) -> None:
    path, out = make(method, rank=4), tmp_path / "out.safetensors"
    result = export(path, out, form, rank=1, base=str(tiny))
    assert (result.exact, result.written_as, result.remarks) == (False, "lora", ())
    for layer in result.layers:
        assert layer.relative**2 == pytest.approx(1 - layer.energy, abs=1e-4), "by Eckart and Young"
    stored = json.loads(StoredMetadata(out)["energy_kept"])
    assert stored == {layer.path: layer.energy for layer in result.layers}
    pipe = deepcopy(plain)
    pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
    same(noise(pipe.unet), own(models, out)[0])


class StoredMetadata(dict[str, str]):
    """Of a safetensors file."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        super().__init__(json.loads(content[8 : 8 + length])["__metadata__"])


@pytest.mark.parametrize(("method", "text"), [("lora", False), *((method, True) for method in METHODS)])
def test_merged_folder(method: str, text: bool, tiny: Path, models: Base, tmp_path: Path, make: Make) -> None:
    path = make(method, text=text)
    result = export(path, tmp_path / "merged", "diffusers", base=str(tiny))
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "merged", safety_checker=None)
    unet, encoder = own(models, path)
    same(noise(pipe.unet), unet)
    same(embedding(pipe.text_encoder), encoder)
    assert result.worst["max_abs_error"] < 1e-5  # pyright: ignore[reportOptionalOperand]
    texts = [file.read_text() for file in (tmp_path / "merged").rglob("*.json")]
    assert not any(str(folder) in text for text in texts for folder in (tiny, tmp_path)), "no path of this machine"


@pytest.mark.parametrize("text", [False, True])
def test_merged_checkpoint(text: bool, tiny: Path, models: Base, tmp_path: Path, make: Make) -> None:
    base = tiny_checkpoint(tiny, tmp_path / "base.safetensors")
    tensors = load_file(base)
    metadata = {"modelspec.title": "kept", "modelspec.hash_sha256": "0x1", "sshs_model_hash": "2"}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, base, metadata)
    path, out = make("lora", text=text), tmp_path / "base" / "merged.safetensors"
    result = export(path, out, "checkpoint", base=str(base))
    (tmp_path / "base" / "merged").symlink_to(tmp_path / "base")  # its configurations
    changed = load_base(out, "cpu")
    unet, encoder = own(models, path)
    same(noise(changed.unet), unet)
    same(embedding(changed.text_encoder), encoder)
    after = load_file(out)
    moved = {name for name, tensor in tensors.items() if not torch.equal(after[name], tensor)}
    assert len(moved) == len(result.layers) == len(read_adapter(path).file.layers)
    assert StoredMetadata(out) == {"modelspec.title": "kept"}, "no hash of other tensors"


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_is_told(dtype: str, tmp_path: Path, make: Make) -> None:
    result = export(make("lora"), tmp_path / "out.safetensors", "kohya", dtype=dtype)
    assert result.dtype == dtype
    assert 1e-5 < (result.worst["relative_error"] or 0) < 1e-2
    assert result.exact


def test_unknown_error_is_told(tmp_path: Path, make: Make) -> None:
    result = export(make("dora"), tmp_path / "out.safetensors", "kohya")
    assert (result.exact, result.layers) == (None, ())
    assert "use --base to compare the export" in result.remarks[-1]


def test_what_other_tools_do_with_magnitudes_is_told(tiny: Path, tmp_path: Path, make: Make) -> None:
    path = make("dora")
    result = export(path, tmp_path / "out.safetensors", "kohya", base=str(tiny))
    assert result.exact
    assert "sd-scripts' own LoRA and diffusers do not read DoRA's magnitudes" in result.remarks[0]
    assert "ComfyUI divides magnitudes by the norms of the base's weights" in result.remarks[1]
    assert "% of a layer's change" in result.remarks[1]
    assert "for ComfyUI, use the format kohya" in export(path, tmp_path / "peft.safetensors", "peft").remarks[0]


def test_bundled_embeddings(tmp_path: Path, make: Make) -> None:
    """A1111 reads `bundle_emb.<word>.<what>`; ComfyUI leaves them out of a LoRA, and the change is whole."""
    path = make("lora")
    file, vectors = AdapterFile.load(path), torch.randn(2, 32)
    replace(
        file, embeddings={"text_encoder": (2, 32)}, tensors={**file.tensors, "embedding.text_encoder": vectors}
    ).save(path)
    plain = export(path, tmp_path / "plain.safetensors", "kohya")
    assert "export them too, with the format embedding, or bundle them" in plain.remarks[0]
    result = export(path, tmp_path / "out.safetensors", "kohya", bundle=True, rank=1)
    assert "A1111 and Forge load 'sks' from this file; diffusers cannot load" in result.remarks[0]
    assert len(result.layers) == len(file.layers)
    names = load_file(tmp_path / "plain.safetensors").keys()
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() - names == {"bundle_emb.sks.string_to_param.*"}
    assert torch.equal(written["bundle_emb.sks.string_to_param.*"], vectors)
    replace(AdapterFile.load(path), token="s.k").save(tmp_path / "dot.safetensors")
    with pytest.raises(ConfigError, match=r"'s.k' cannot name bundled embeddings: export them in the format embedding"):
        export(tmp_path / "dot.safetensors", tmp_path / "x.safetensors", "kohya", bundle=True)


def test_files_of_other_tools_are_exported(models: Base, tmp_path: Path, make: Make) -> None:
    path = make("loha")
    export(path, tmp_path / "a.safetensors", "kohya")
    result: ExportResult = export(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "lora", rank=32)
    assert result.exact
    same(own(models, tmp_path / "b.safetensors")[0], own(models, path)[0])
    with pytest.raises(ConfigError, match="does not record its base"):
        export(tmp_path / "a.safetensors", tmp_path / "c", "diffusers")


def test_command(tiny: Path, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(make("loha"))
    assert main(["export", path, "--format", "kohya", "--out", str(tmp_path / "a.safetensors"), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    result = json.loads(printed)
    assert (result["format"], result["written_as"], result["exact"]) == ("kohya", "loha", True)
    assert result["layers"][0].keys() == {"path", "max_abs", "relative", "energy"}
    command = ["export", path, "--format", "lora", "--rank", "1", "--out", str(tmp_path / "b.safetensors")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "not exact   largest error" in printed
    assert "energy kept" in printed
    assert main([*command[:2], "--format", "kohya", "--out", str(tmp_path / "c.safetensors")]) == 0
    assert "exact       largest error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", {"form": "onnx"}, "format = 'onnx' must be one of lora, peft"),
        ("lora", {"dtype": "int8"}, "dtype = 'int8' must be one of fp32"),
        (
            "lora",
            {"form": "checkpoint", "rank": 2},
            "rank applies only to the formats lora, peft, kohya: omit it with checkpoint",
        ),
        ("lora", {"rank": 0}, "rank = 0 must be at least 1"),
        ("lora", {"out": "folder"}, "ends in .safetensors"),
        ("lora", {"form": "diffusers"}, "use a name without .safetensors"),
        ("lora", {"out": "lora.safetensors"}, "already exists"),
        ("lora", {"out": "lora.safetensors/x.safetensors"}, "is a file, not a folder"),
        ("dora", {}, "dora has no small exact factors"),
        ("dora", {"rank": 2}, "dora depends on the base's weights: set the base"),
        ("lora", {"bundle": True}, "embeddings can be bundled only in the format kohya, not in lora"),
        ("lora", {"form": "kohya", "bundle": True}, "the adapter has no embeddings: it was trained without"),
        ("full", {"form": "peft"}, "full has no small exact factors"),
        ("loha", {"form": "peft"}, "diffusers does not read loha files: for PEFT, write a folder"),
        (
            "lora",
            {"form": "checkpoint", "base": "{tiny}"},
            "is not a single-file checkpoint to write a changed copy of",
        ),
        ("lora", {"form": "diffusers", "out": "folder"}, "was trained on the base 'tiny', a local folder or file"),
        ("lora", {"base": "none"}, "no base model 'none'"),
        ("lora", {"adapter": "none"}, "no adapter file"),
        ("lora", {"adapter": "lora.safetensors:0.5"}, "a strength cannot be exported"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_bad_input(
    method: str,
    options: dict[str, Any],
    message: str,
    tiny: Path,
    tmp_path: Path,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make(method)
    monkeypatch.chdir(tmp_path)
    values = {"form": "lora", "out": "new/out.safetensors", "adapter": path.name, **options}
    command = ["export", values.pop("adapter"), "--format", values.pop("form"), "--out", values.pop("out")]
    for name, value in values.items():
        command += [f"--{name}", *([] if value is True else [str(value).format(tiny=tiny)])]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert list(tmp_path.iterdir()) == [path], "nothing is written"


def test_other_bases_and_values_that_do_not_fit(tiny: Path, tmp_path: Path, make: Make) -> None:
    path = make("lora")
    other = tiny_folder(tmp_path / "other", width=64)
    large = AdapterFile.load(path)
    large = replace(large, tensors={name: tensor * 1e4 for name, tensor in large.tensors.items()})
    large.save(tmp_path / "large.safetensors")
    before = sorted(tmp_path.iterdir())
    failing: list[tuple[type[DreamtuneError], str, Path, dict[str, Any]]] = [
        (IncompatibleModelError, "lora.safetensors: .*for another base", path, {"base": str(other)}),
        (ConfigError, "exceed the range of torch.float16", tmp_path / "large.safetensors", {"dtype": "fp16"}),
    ]
    for kind, message, adapter, options in failing:
        with pytest.raises(kind, match=message):
            export(adapter, tmp_path / "new" / "x", "diffusers", **{"base": str(tiny), **options})
        assert sorted(tmp_path.iterdir()) == before
