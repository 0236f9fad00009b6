"""Every damage to an adapter file is one error that names the file, the fault and the remedy."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.adapters import AdapterFile, container
from dreamtune.errors import AdapterFileError
from tests.adapters.nets import make_file

Tensors = dict[str, Tensor]
Header = dict[str, str]
CONTENT_DAMAGES: dict[str, tuple[Callable[[Tensors, Header], object], str]] = {
    "missing tensor": (lambda t, h: t.pop("first.up"), r"lacks 1 tensors, first first\.up"),
    "surplus tensor": (lambda t, h: t.update({"first.mid": torch.ones(2)}), r"has 1 extra tensors, first first\.mid"),
    "wrong shape": (lambda t, h: t.update({"first.up": torch.ones(2, 5)}), r"first\.up is 2x5, not 5x2"),
    "scalar": (lambda t, h: t.update({"first.up": torch.tensor(1.0)}), r"first\.up is one number, not 5x2"),
    "wrong type": (lambda t, h: t.update({"first.up": torch.ones(5, 2, dtype=torch.int32)}), r"first\.up is of type"),
    "NaN": (lambda t, h: t["first.up"].fill_(torch.nan), r"first\.up contains NaN"),
    "infinity": (lambda t, h: t["first.up"].fill_(torch.inf), r"first\.up contains NaN or inf"),
    "no tensors": (lambda t, h: t.clear(), r"lacks 4 tensors, first block\.second\.down"),
    "no layers": (lambda t, h: (t.clear(), h.update({"dreamtune.layers": "{}"})), "no layer"),
    "unknown method": (lambda t, h: h.update({"dreamtune.method": "new"}), "'new', not one of lora.*newer"),
    "unknown option": (lambda t, h: h.update({"dreamtune.config": '{"rank":2,"x":1}'}), "no option x.*newer"),
    "missing option": (lambda t, h: h.update({"dreamtune.config": '{"rank":2}'}), "config lacks alpha, dropout"),
    "impossible option": (
        lambda t, h: h.update({"dreamtune.config": h["dreamtune.config"].replace("5.0", "-1")}),
        "config: alpha = -1",
    ),
    "impossible rank": (
        lambda t, h: h.update({"dreamtune.config": h["dreamtune.config"].replace('"rank":2', '"rank":6')}),
        "layer block.second: rank = 6",
    ),
    "config no JSON": (lambda t, h: h.update({"dreamtune.config": "{"}), "dreamtune.config is not a JSON object"),
    "config a list": (lambda t, h: h.update({"dreamtune.config": "[]"}), "dreamtune.config is not a JSON object"),
    "nested too deep": (lambda t, h: h.update({"dreamtune.training": "[" * 10**5}), "dreamtune.training is not"),
    "layer without shape": (lambda t, h: h.update({"dreamtune.layers": '{"first":[]}'}), "layers has no size.*first"),
    **{
        f"subjects {value[:20]}": (
            lambda t, h, value=value: h.update({"dreamtune.subjects": value}),
            "dreamtune.subjects does not begin with the first subject's token and class",
        )
        for value in (
            "{",
            "1",
            "[]",
            "[[1,2]]",
            '[["sks"]]',
            '[["zwx","dog"]]',
            '[["sks","dog"],["a",null]]',
            "[" * 10**5,
        )
    },
    "negative size": (
        lambda t, h: h.update({"dreamtune.layers": '{"first":[5,-7,"a","b"]}'}),
        "layers has no size.*first",
    ),
    **{
        f"no {key}": (lambda t, h, key=key: h.pop(f"dreamtune.{key}"), f"lacks dreamtune.{key}")
        for key in ("version", "method", "config", "layers", "base", "trigger", "class", "training")
    },
}


@pytest.mark.parametrize("damage", CONTENT_DAMAGES)
def test_wrong_content_is_named(path: Path, damage: str) -> None:
    change, message = CONTENT_DAMAGES[damage]
    tensors, header = container.read(path)
    change(tensors, header)
    container.write(path, tensors, header)
    with pytest.raises(AdapterFileError, match=message) as caught:
        AdapterFile.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


BYTE_DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda b: b"", "truncated or not a safetensors file"),
    "seven bytes": (lambda b: b[:7], "truncated or not a safetensors file"),
    "within the header": (lambda b: b[:100], "truncated or not a safetensors file"),
    "within the tensors": (lambda b: b[:-10], "truncated or damaged"),
    "too long": (lambda b: b + b"\0" * 8, "damaged"),
    "a picture": (lambda b: b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "not a safetensors file"),
    "text": (lambda b: b"hello, this is no adapter at all", "not a safetensors file"),
    "a zipped pickle": (lambda b: b"PK\x03\x04" + b"\0" * 100, "pickle.*never opened"),
    "a pickle": (lambda b: b"\x80\x02}q\x00." + b"\0" * 100, "pickle.*never opened"),
    "header a list": (lambda b: (8).to_bytes(8, "little") + b"[1]     ", "not a safetensors file"),
    "metadata a list": (lambda b: (24).to_bytes(8, "little") + b'{"__metadata__":["a"]}  ', "no adapter"),
    "one bit": (flipped, "has changed since it was saved"),
    "unknown data type": (lambda b: b.replace(b'"F32"', b'"X32"'), "damaged"),
    "another version": (lambda b: b.replace(b'format":"1"', b'format":"2"'), "format version 2, not 1.*dreamtune"),
}


@pytest.mark.parametrize("damage", BYTE_DAMAGES)
def test_damaged_bytes_are_told_apart(path: Path, damage: str) -> None:
    change, message = BYTE_DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(AdapterFileError, match=message) as caught:
        AdapterFile.load(path)
    assert str(path) in str(caught.value)


def test_no_damage_escapes_as_another_error(path: Path) -> None:
    """Every file cut short and every flipped byte of the header is refused, or harmless."""
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in range(0, len(whole), 29):
        path.write_bytes(whole[:size])
        with pytest.raises(AdapterFileError):
            AdapterFile.load(path)
    for position in range(0, header, 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        with contextlib.suppress(AdapterFileError):
            AdapterFile.load(path)


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "kohya"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LyCORIS"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LyCORIS"),
        ("base_model.model.mid_block.to_q.lora_A.weight", "PEFT"),
        ("unet.mid_block.attn1.processor.to_q_lora.up.weight", "diffusers"),
    ],
)
def test_files_of_other_tools_are_recognised(tmp_path: Path, name: str, tool: str) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"ss_network_module": "networks.lora"}):
        save_file({name: torch.ones(2, 2)}, path, metadata)
        with pytest.raises(AdapterFileError, match=rf"another tool \({tool}\)"):
            AdapterFile.load(path)


def test_whole_models_are_no_adapters(tmp_path: Path) -> None:
    save_file({"model.diffusion_model.x.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(AdapterFileError, match="contains no adapter"):
        AdapterFile.load(tmp_path / "model.safetensors")


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="is a folder"):
        AdapterFile.load(tmp_path)
    with pytest.raises(AdapterFileError, match="no adapter file .*gone"):
        AdapterFile.load(tmp_path / "gone.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(AdapterFileError, match="cannot read"):
        AdapterFile.load(tmp_path / "file" / "a.safetensors")


def test_places_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    file = AdapterFile.load(path)
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", path / "a.safetensors"):
        with pytest.raises(AdapterFileError, match=f"cannot write {target}: .*choose another path"):
            file.save(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog.safetensors", "folder"], "no leftovers"


def test_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before, file = path.read_bytes(), make_file(training={})
    monkeypatch.setattr(container.os, "fsync", full)
    with pytest.raises(AdapterFileError, match="No space left on device; free some disk space"):
        file.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_new_folders_are_made(path: Path, tmp_path: Path) -> None:
    AdapterFile.load(path).save(tmp_path / "new" / "folder" / "a.safetensors")
    assert AdapterFile.load(str(tmp_path / "new" / "folder" / "a.safetensors")).token == "sks"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_narrow_numbers_are_read_and_checked_for_what_is_no_number(tmp_path: Path, dtype: torch.dtype) -> None:
    file = make_file()
    narrow = {name: tensor.to(dtype) for name, tensor in file.tensors.items()}
    replace(file, tensors=narrow).save(tmp_path / "narrow.safetensors")
    for path, adapter in AdapterFile.load(tmp_path / "narrow.safetensors").adapters().items():
        for name, tensor in adapter.state_dict().items():
            assert torch.equal(tensor, narrow[f"{path}.{name}"].float())
    name = min(narrow)
    narrow[name] = torch.full_like(narrow[name].float(), torch.nan).to(dtype)
    with pytest.raises(AdapterFileError, match=f"{name} contains NaN or infinity"):
        replace(file, tensors=narrow).save(tmp_path / "nan.safetensors")
