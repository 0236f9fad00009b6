"""Files of several layers, as LyCORIS, ComfyUI and OneTrainer have them: what is read, and what is left out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats import read_adapter, to_peft_folder
from dreamtune.adapters.methods.lokr import LoKr, LoKrConfig
from dreamtune.errors import AdapterFileError, ConfigError

Tensors = dict[str, Tensor]
BLOCK = "lora_unet_down_blocks_0_attentions_0"
INNER = f"{BLOCK}_transformer_blocks_0"
PATH = "down_blocks.0.attentions.0"
SDXL_TWIN = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def layer_of(algorithm: str, name: str, layer: nn.Module, rank: int = 2, **options: Any) -> Tensors:
    """What LyCORIS writes of one layer, with random factors."""
    kind: Any = {"loha": LohaModule, "lokr": LokrModule}[algorithm]
    module = kind(name, layer.requires_grad_(False), 1.0, rank, 1, **options)
    generator = torch.Generator().manual_seed(len(name))
    return {
        f"{name}.{key}": torch.randn(tensor.shape, generator=generator) if tensor.ndim else tensor.detach().clone()
        for key, tensor in module.state_dict().items()
    }


def lokr(name: str, rows: int, columns: int, rank: int = 2, **options: Any) -> Tensors:
    return layer_of("lokr", name, nn.Linear(columns, rows), rank, **options)


def read(path: Path, tensors: Tensors) -> AdapterFile:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "a.safetensors")
    return read_adapter(path / "a.safetensors").file


@pytest.mark.parametrize("algorithm", ["loha", "lokr"])
@pytest.mark.parametrize("options", [{}, {"factor": 4}, {"decompose_both": True, "rank": 1}, {"rank": 1000}])
def test_projections_are_matrices_of_any_base(algorithm: str, options: dict[str, Any], tmp_path: Path) -> None:
    """In SD 1.x they are convolutions with a kernel of 1x1, in 2.x and XL linear; which is the same change."""
    options = options if algorithm == "lokr" else {}
    layers = nn.Linear(32, 32), nn.Conv2d(32, 32, 1)
    linear, convolved = (layer_of(algorithm, f"{BLOCK}_proj_in", layer, **options) for layer in layers)
    files = [read(tmp_path, tensors) for tensors in (linear, convolved)]
    record = files[0].layers[f"{PATH}.proj_in"]
    assert (record.shape, record.kernel) == ((32, 32), None)
    assert files[1].layers == files[0].layers
    assert all(torch.equal(files[1].tensors[name], tensor) for name, tensor in files[0].tensors.items())


@pytest.mark.parametrize("factor", [2, 3])
def test_whole_matrices_of_a_layer_that_is_far_from_square(factor: int, tmp_path: Path) -> None:
    """The rank that leaves the larger matrix whole is then more than that of the layer: here 64, and 32."""
    name = f"{INNER}_ff_net_0_proj"
    tensors = lokr(name, 256, 32, rank=10000, factor=factor)
    (adapter,) = read(tmp_path, tensors).adapters().values()
    assert (adapter.shape, adapter.config.rank) == ((256, 32), 64)
    expected = torch.kron(tensors[f"{name}.lokr_w1"], tensors[f"{name}.lokr_w2"])
    torch.testing.assert_close(adapter.delta_weight(torch.zeros(256, 32)), expected)


def test_the_most_that_the_rank_of_a_lokr_can_be() -> None:
    assert LoKr(LoKrConfig(rank=64, factor=2), 256, 32).state_dict().keys() == {"w1", "w2"}
    for config, most in ((LoKrConfig(rank=65, factor=2), 64), (LoKrConfig(rank=33), 32)):
        with pytest.raises(ConfigError, match=f"use at most {most}$"):
            LoKr(config, 256, 32)


SIZES = [(320, 320), (640, 640), (320, 768), (640, 2048), (1280, 320), (2560, 320), (1280, 1280)]


@pytest.mark.parametrize("factor", [-1, 2, 5, 8, 10, 12, 16, 17, 20, 40])
@pytest.mark.parametrize("both", [False, True])
def test_one_factor_is_found_for_all_layers(factor: int, both: bool, tmp_path: Path) -> None:
    """Alone, a layer of 320x320 splits alike with the factors -1 and 16, one of 640x640 with 16 and 20 does not."""
    tensors: Tensors = {}
    for number, (rows, columns) in enumerate(SIZES):
        name = f"{INNER.replace('0', str(number), 1)}_attn1_to_q"
        tensors |= lokr(name, rows, columns, rank=4, factor=factor, decompose_both=both)
    file = read(tmp_path, tensors)
    assert len(file.layers) == len(SIZES)
    assert not any(record.options for record in file.layers.values())
    if factor * factor <= 320:  # of 320 PEFT makes 20 x 16 with the factor 20, LyCORIS 16 x 20: that is refused
        _, config = to_peft_folder(file, torch.float32)
        assert isinstance(file.config, LoKrConfig)
        assert config["decompose_factor"] == file.config.factor


def test_layers_of_several_factors_keep_their_own(tmp_path: Path) -> None:
    first, second = f"{INNER}_attn1_to_q", f"{INNER}_attn1_to_k"
    file = read(tmp_path, lokr(first, 32, 32, rank=100, factor=2) | lokr(second, 32, 32, rank=100, factor=4))
    assert {path[-1]: a.state_dict()["w1"].shape[0] for path, a in file.adapters().items()} == {"q": 2, "k": 4}
    with pytest.raises(ConfigError, match="PEFT has a single factor for all layers|PEFT splits"):
        to_peft_folder(file, torch.float32)
    file.save(tmp_path / "own.safetensors")
    again = AdapterFile.load(tmp_path / "own.safetensors")
    assert (again.config, again.layers) == (file.config, file.layers)


@pytest.mark.parametrize(("w1", "w2"), [((16, 4), (4, 16)), ((1, 64), (64, 1)), ((64, 64), (1, 1)), ((3, 5), (7, 2))])
@pytest.mark.parametrize("small", [(), ("1",), ("2",), ("1", "2")])
def test_any_two_matrices_are_a_lokr(
    w1: tuple[int, int], w2: tuple[int, int], small: tuple[str, ...], tmp_path: Path
) -> None:
    """Also of sizes that no factor gives, and with low-rank factors where LyCORIS would have none."""
    name, generator = f"{INNER}_attn1_to_q", torch.Generator().manual_seed(3)
    tensors, whole = {f"{name}.alpha": torch.tensor(3.0)}, {"1": torch.zeros(()), "2": torch.zeros(())}
    for number, (rows, columns) in (("1", w1), ("2", w2)):
        if number in small:
            up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
            tensors |= {f"{name}.lokr_w{number}_a": up, f"{name}.lokr_w{number}_b": down}
            whole[number] = up @ down
        else:
            whole[number] = tensors[f"{name}.lokr_w{number}"] = torch.randn(rows, columns, generator=generator)
    (adapter,) = read(tmp_path, tensors).adapters().values()
    scale = 1.5 if small else 1.0
    expected = scale * torch.kron(whole["1"], whole["2"])
    torch.testing.assert_close(adapter.delta_weight(torch.zeros(expected.shape)), expected)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te2_text_projection",
        "lora_te1_text_projection",
        "text_encoder_2.text_projection",
        "text_encoders.clip_g.transformer.text_projection",
    ],
)
def test_the_projection_of_pooled_texts_is_left_out(name: str, tmp_path: Path) -> None:
    tensors = lokr(name, 32, 32)
    with pytest.raises(AdapterFileError, match="only text projections$"):
        read(tmp_path, tensors)
    file = read(tmp_path, tensors | lokr(f"{INNER}_attn1_to_q", 32, 32))
    assert list(file.layers) == [f"{PATH}.transformer_blocks.0.attn1.to_q"]
    assert file.training["layers_left_out"] == 1
    (remark,) = read_adapter(tmp_path / "a.safetensors").remarks
    assert remark.startswith(f"1 text projections are left out, first {name}: images may differ")


def test_a_layer_under_two_names_is_read_once(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = lokr(name, 32, 32)
    twins = {key.replace(name, SDXL_TWIN): tensor.clone() for key, tensor in tensors.items()}
    file, alone = read(tmp_path, tensors | twins), read(tmp_path, tensors)
    assert file.tensors.keys() == alone.tensors.keys()
    assert all(torch.equal(file.tensors[key], alone.tensors[key]) for key in alone.tensors)
    with pytest.raises(AdapterFileError, match="are the same layer, but differ"):
        read(tmp_path, tensors | twins | {f"{SDXL_TWIN}.alpha": torch.tensor(7.0)})
