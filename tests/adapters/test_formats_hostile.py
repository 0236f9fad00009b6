"""Files that are made to cost much, or to get at the terminal: one clear line, before anything large is formed."""

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.formats import read_adapter
from dreamtune.adapters.methods.lokr import LoKrConfig
from dreamtune.errors import AdapterFileError

NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"
PATH = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def refusal(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    path = folder / "a.safetensors"
    save_file(tensors, path, metadata)
    return refused(path)


def refused(path: Path) -> str:
    begin = time.monotonic()
    with pytest.raises(AdapterFileError) as error:
        read_adapter(path)
    assert time.monotonic() - begin < 10
    assert len(str(error.value)) <= 1000
    return str(error.value)


LARGE: dict[str, dict[str, Tensor]] = {
    "kron of 32 GB": {f"{NAME}.lokr_w1": torch.zeros(300, 300), f"{NAME}.lokr_w2": torch.zeros(300, 300)},
    "loha of 60,000²": {
        f"{NAME}.hada_{name}": torch.zeros(60_000 if name.endswith("_a") else 4, 4 if name.endswith("_a") else 60_000)
        for name in ("w1_a", "w1_b", "w2_a", "w2_b")
    },
    "lora of 40,000²": {
        f"{NAME}.lora_up.weight": torch.zeros(40_000, 1),
        f"{NAME}.lora_down.weight": torch.zeros(1, 40_000),
    },
    "kron of vectors": {f"{NAME}.lokr_w1": torch.zeros(10_000, 1), f"{NAME}.lokr_w2": torch.zeros(1, 10_000)},
    "conv with a huge kernel": {
        f"{CONV}.lora_up.weight": torch.zeros(4000, 1, 1, 1),
        f"{CONV}.lora_down.weight": torch.zeros(1, 1, 1000, 1000),
    },
    "tucker": {
        f"{CONV}.lora_mid.weight": torch.zeros(100, 100, 9, 9),
        f"{CONV}.lora_up.weight": torch.zeros(4, 100, 1, 1),
        f"{CONV}.lora_down.weight": torch.zeros(100, 5000, 1, 1),
    },
}


@pytest.mark.parametrize("kind", LARGE)
def test_what_is_larger_than_any_layer_is_not_formed(kind: str, tmp_path: Path) -> None:
    assert "larger than any layer of a known base" in refusal(tmp_path, LARGE[kind])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("tensor", ["lora_down.weight", "lora_up.weight"])
@pytest.mark.parametrize("rank", [4, 64])
def test_values_that_are_no_numbers(value: float, tensor: str, rank: int, tmp_path: Path) -> None:
    """Also of a rank above what there can be, which is reduced by a decomposition."""
    tensors = {f"{NAME}.lora_down.weight": torch.zeros(rank, 8), f"{NAME}.lora_up.weight": torch.zeros(8, rank)}
    tensors[f"{NAME}.{tensor}"][0, 0] = value
    assert "contains NaN or infinity" in refusal(tmp_path, tensors)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8])
def test_factors_that_are_no_fractions(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {f"{NAME}.lora_down.weight": torch.zeros(2, 8, dtype=dtype), f"{NAME}.lora_up.weight": torch.zeros(8, 2)}
    assert "is of type" in refusal(tmp_path, tensors)


def test_values_too_large_for_a_spectrum(tmp_path: Path) -> None:
    large = torch.full((2, 8), 1e200, dtype=torch.float64)
    tensors = {f"{NAME}.lora_down.weight": large, f"{NAME}.lora_up.weight": large.T.contiguous()}
    assert "contains NaN or infinity" in refusal(tmp_path, tensors)
    loha = {f"{NAME}.hada_w{n}_{side}": torch.full((8, 8), 1e30) for n in "12" for side in "ab"}
    save_file(loha, tmp_path / "a.safetensors")
    with pytest.raises(AdapterFileError, match="its change overflows"):
        read_adapter(tmp_path / "a.safetensors").file.spectra()


def test_the_spectrum_of_a_kronecker_product_takes_its_matrices_alone(tmp_path: Path) -> None:
    w1, w2 = torch.randn(64, 64), torch.randn(64, 64)
    save_file({f"{NAME}.lokr_w1": w1, f"{NAME}.lokr_w2": w2}, tmp_path / "a.safetensors")
    begin = time.monotonic()
    (spectrum,) = read_adapter(tmp_path / "a.safetensors").file.spectra().values()  # dense: a minute
    assert time.monotonic() - begin < 10
    largest = torch.linalg.matrix_norm(w1.double(), 2) * torch.linalg.matrix_norm(w2.double(), 2)
    torch.testing.assert_close(spectrum.values[0], largest)
    torch.testing.assert_close(spectrum.norm, float(w1.double().norm() * w2.double().norm()))


def raw(path: Path, header: dict[str, Any], content: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({f"{NAME}.lora_down.weight": 3}, "truncated or damaged"),
    "negative size": ({f"{NAME}.lora_down.weight": {"shape": [-1, 8]}}, "truncated or damaged"),
    "huge size": (
        {f"{NAME}.lora_down.weight": {"dtype": "F32", "shape": [10**30, 8], "data_offsets": [0, 0]}},
        "truncated or damaged",
    ),
    "long name": ({f"{'a' * 501}.lora_down.weight": {"shape": [2, 8]}}, "a tensor's name has 518 characters"),
    "many digits": ({f"down_blocks.{'9' * 400}.resnets.0.conv1.lora_A.weight": {"shape": [2, 8]}}, "is not a layer"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_that_ask_for_much(kind: str, tmp_path: Path) -> None:
    header, message = HEADERS[kind]
    assert message in refused(raw(tmp_path / "a.safetensors", header))


def test_more_tensors_than_any_adapter_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamtune.adapters.formats.contents._MOST_TENSORS", 100)
    names = [f"{NAME}{n}.lora_down.weight" for n in range(101)]
    header = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    told = refused(raw(tmp_path / "a.safetensors", header))
    assert "it has 101 tensors, more than an adapter of any known base" in told


def test_a_header_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)  # without taking room on the disk
    assert "truncated or not a safetensors file" in refused(path)


def test_names_are_shown_inert(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\x1b[31m\u202eX"
    message = refusal(
        tmp_path, {f"{name}.lora_down.weight": torch.zeros(2, 8), f"{name}.lora_up.weight": torch.zeros(8, 2)}
    )
    assert message.isprintable()
    assert r"\x1b" in message


@pytest.mark.parametrize("pattern", ["([a-z_.0-9]+)+!", "(((a{1,30}){1,30}){1,30}){1,30}", "(" * 100])
def test_patterns_of_peft_take_no_time(pattern: str, tmp_path: Path) -> None:
    told = json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.rank_pattern": {pattern: 4}})
    layers = [f"unet.{PATH.replace('to_q', name)}" for name in ("to_q", "to_k", "to_v")]
    tensors = {f"{layer}.lora_{letter}.weight": torch.zeros(2, 2) for layer in layers for letter in "AB"}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": told})
    begin = time.monotonic()
    try:
        assert read_adapter(tmp_path / "a.safetensors").file.config.rank == 2
    except AdapterFileError as error:
        assert "PEFT's options" in str(error)
    assert time.monotonic() - begin < 10


def test_a_pattern_for_each_layer_is_quick(tmp_path: Path) -> None:
    """As files have whose ranks were chosen for each layer: 400 patterns for 400 layers."""
    layers = [
        f"down_blocks.{n}.attentions.{m}.transformer_blocks.{k}.attn1.to_q"
        for n, m, k in ((n, m, k) for n in range(4) for m in range(10) for k in range(10))
    ]
    told = {"unet.r": 1, "unet.lora_alpha": 2, "unet.alpha_pattern": {layer: 3 + n for n, layer in enumerate(layers)}}
    tensors = {f"unet.{layer}.lora_{letter}.weight": torch.zeros(1, 1) for layer in layers for letter in "AB"}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    file = read_adapter(tmp_path / "a.safetensors").file
    assert {path: adapter.config.alpha for path, adapter in file.adapters().items()} == {
        layer: 3 + n for n, layer in enumerate(layers)
    }


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero"), Path("/dev/null")):
        assert "not a regular file" in refused(path)


def test_own_files_are_bounded_too(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="a layer of 60000x60000 is larger than in any known base"):
        LayerRecord((60_000, 60_000))
    tensors = {"x.w1": torch.zeros(300, 300), "x.w2": torch.zeros(300, 300)}
    config = LoKrConfig(rank=300)
    with pytest.raises(AdapterFileError, match="larger than in any known base"):
        AdapterFile(
            method="lokr",
            config=config,
            layers={"x": LayerRecord((90_000, 90_000))},
            base="",
            token="",
            class_word="",
            training={},
            tensors=tensors,
        )


def test_factors_of_unlike_ranks(tmp_path: Path) -> None:
    """Also of more than the layer's own rank, which are reduced."""
    for inner in (2, 64):
        tensors = {f"{NAME}.lora_up.weight": torch.zeros(8, inner), f"{NAME}.lora_down.weight": torch.zeros(3, 8)}
        assert f"down 3x8, up 8x{inner} do not fit together as lora" in refusal(tmp_path, tensors)


def test_layers_of_several_precisions(tmp_path: Path) -> None:
    tensors = {f"{NAME}.lokr_w1": torch.ones(2, 2, dtype=torch.float64), f"{NAME}.lokr_w2": torch.ones(4, 4).half()}
    save_file(tensors, tmp_path / "a.safetensors")
    file = read_adapter(tmp_path / "a.safetensors").file
    assert file.adapters()[PATH].delta_weight(torch.zeros(8, 8)).dtype == torch.float64
    file.save(tmp_path / "own.safetensors")
    assert AdapterFile.load(tmp_path / "own.safetensors").spectra()[PATH].norm == pytest.approx(8)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", '{"alpha": 1%s, "dropout": 0.0, "rank": 1, "rslora": false}' % ("0" * 400), "alpha has 401 digits"),
        ("layers", '{"x": [1%s, 1, null, null]}' % ("0" * 5000), "dreamtune.layers is not a JSON object"),
        ("layers", '{"x": [100000, 100000, null, null]}', "larger than in any known base"),
    ],
)
def test_headers_of_own_files(key: str, value: str, message: str, tmp_path: Path) -> None:
    header = {
        **{f"dreamtune.{name}": "" for name in ("base", "token", "class")},
        **{"dreamtune.version": "1", "dreamtune.method": "lora", "dreamtune.training": "{}"},
        "dreamtune.config": '{"alpha": 1.0, "dropout": 0.0, "rank": 1, "rslora": false}',
        "dreamtune.layers": '{"x": [1, 1, null, null]}',
        f"dreamtune.{key}": value,
    }
    with pytest.raises(AdapterFileError, match=message):
        AdapterFile.from_content({"x.up": torch.zeros(1, 1), "x.down": torch.zeros(1, 1)}, header)


def test_all_layers_together_are_bounded(tmp_path: Path) -> None:
    """129 layers of 32 million weights each, in a file of 3 MB."""
    layers = [f"down_blocks.{n // 10}.attentions.{n % 10}.transformer_blocks.0.attn1.to_q" for n in range(129)]
    sizes = {"A": (1, 5792), "B": (5792, 1)}
    tensors = {f"unet.{layer}.lora_{letter}.weight": torch.zeros(sizes[letter]) for layer in layers for letter in "AB"}
    assert "more weights than any known base" in refusal(tmp_path, tensors)
