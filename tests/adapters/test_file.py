"""Adapter files: complete, reproducible, and only for the base they were made for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dreamtune import __version__
from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import AdapterFileError, ConfigError, IncompatibleModelError
from tests.adapters.nets import TRAINING, attached_to, frozen_net, inputs, make_file


def test_file_knows_what_it_is(path: Path) -> None:
    file = AdapterFile.load(path)
    assert (file.method, file.base, file.trigger, file.class_word) == ("lora", "pocket", "sks", "dog")
    assert file.config == LoRAConfig(rank=2, alpha=5.0)
    assert file.rank == 2
    assert file.training == TRAINING
    assert file.version == __version__
    assert {name: record.shape for name, record in file.layers.items()} == {"first": (5, 7), "block.second": (6, 5)}
    assert set(file.tensors) == {"first.up", "first.down", "block.second.up", "block.second.down"}
    assert all(torch.equal(tensor, make_file().tensors[name]) for name, tensor in file.tensors.items())


def test_summary_is_plain_and_counts(path: Path) -> None:
    summary = AdapterFile.load(path).summary()
    numbers = 2 * (5 + 7) + 2 * (6 + 5)
    assert json.loads(json.dumps(summary)) == {
        "method": "lora",
        "config": {"rank": 2, "alpha": 5.0, "rslora": False, "dropout": 0.0},
        "base": "pocket",
        "trigger": "sks",
        "class": "dog",
        "layers": 2,
        "parameters": numbers,
        "bytes": 4 * numbers,
        "training": TRAINING,
        "version": __version__,
    }


def test_other_tools_can_show_it(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    shown = {key: value for key, value in metadata.items() if key.startswith(("modelspec.", "ss_"))}
    assert shown.pop("modelspec.hash_sha256").startswith("0x")
    assert shown == {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "pocket/lora",
        "modelspec.title": "sks dog",
        "modelspec.trigger_phrase": "sks dog",
        "ss_network_module": "dreamtune.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "5.0",
        "ss_base_model_version": "pocket",
    }


@pytest.mark.parametrize(("width", "names"), [(768, ("stable-diffusion-v1/lora", "sd_v1")), (1024, ("", "sd_v2"))])
def test_kind_of_base_is_told_by_the_text_width(width: int, names: tuple[str, str]) -> None:
    net = torch.nn.Module()
    net.attn2 = torch.nn.ModuleDict({"to_k": torch.nn.Linear(width, 2)})
    with attach(net, LoRAConfig(rank=1), "kv") as attached:
        header = AdapterFile.from_attached(attached, base="b", trigger="", class_word="", training={}).to_header()
    assert header["modelspec.architecture"].startswith(names[0])
    assert header["ss_base_model_version"] == names[1]


def test_equal_content_gives_equal_bytes(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    for _ in range(5):  # safetensors' own writer gives metadata another order each time
        AdapterFile.load(path).save(other)
        assert other.read_bytes() == path.read_bytes()
    assert load_file(path).keys() == make_file().tensors.keys(), "any reader of safetensors can open it"


def test_no_folder_of_this_machine_gets_in(tmp_path: Path) -> None:
    training = {
        "images": "/srv/me/dog",
        "cache": Path("/var/tmp/x"),
        "more": [{"p": "C:\\data\\me\\dog"}],
        "t": "a/b",
    }
    make_file(training=training, base="/models/sd15").save(tmp_path / "a.safetensors")
    file = AdapterFile.load(tmp_path / "a.safetensors")
    assert file.training == {"images": "dog", "cache": "x", "more": [{"p": "dog"}], "t": "a/b"}
    assert file.base == "sd15"


def test_snapshot_does_not_follow_the_training() -> None:
    net = frozen_net()
    attached = attached_to(net, "lora")
    attached.strength = 0.5
    attached.merge()
    file = AdapterFile.from_attached(attached, base="b", trigger="t", class_word="c", training={})
    up = attached.adapters["first"].get_parameter("up")
    assert torch.equal(file.tensors["first.up"], up)
    up.data.zero_()
    assert file.tensors["first.up"].count_nonzero()
    again = file.attach(frozen_net(), any_base=True)
    again.adapters["first"].get_parameter("up").data.zero_()
    assert file.tensors["first.up"].count_nonzero()


def test_detached_or_diverged_adapters_make_no_file() -> None:
    attached = attached_to(frozen_net(), "lora")
    attached.adapters["first"].get_parameter("up").data[0, 0] = torch.nan
    with pytest.raises(AdapterFileError, match=r"first\.up holds NaN.*learning rate"):
        AdapterFile.from_attached(attached, base="b", trigger="t", class_word="c", training={})
    attached.detach()
    with pytest.raises(AdapterFileError, match="detached"):
        AdapterFile.from_attached(attached, base="b", trigger="t", class_word="c", training={})


def test_attached_again_it_acts_as_before(path: Path) -> None:
    net, x = frozen_net(torch.float32), inputs(torch.float32)
    with attached_to(net, "lora") as attached:
        whole = net(x)
        attached.strength = 0.5
        half = net(x)
    file = AdapterFile.load(path)
    assert not any(adapter.training for adapter in file.adapters().values())
    with file.attach(net) as attached:
        assert torch.equal(net(x), whole)
        assert not attached.training
        assert all(parameter.requires_grad for parameter in attached.parameters())
    with file.attach(net, 0.5):
        assert torch.equal(net(x), half)
    with pytest.raises(ConfigError, match="strength"):
        file.attach(net, float("nan"))
    assert type(net.first) is torch.nn.Linear


def test_half_precision_tensors_are_widened(path: Path) -> None:
    file = AdapterFile.load(path)
    file = replace(file, tensors={name: tensor.half() for name, tensor in file.tensors.items()})
    attached = file.attach(frozen_net(torch.float32))
    assert {parameter.dtype for parameter in attached.parameters()} == {torch.float32}


@pytest.mark.parametrize("trained", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loaded", [torch.float32, torch.float16, torch.bfloat16])
def test_same_base_in_another_precision_is_the_same_base(trained: torch.dtype, loaded: torch.dtype) -> None:
    file = make_file(frozen_net(torch.float32).to(trained))
    if {trained, loaded} == {torch.float16, torch.bfloat16}:
        with pytest.raises(IncompatibleModelError):  # each has lost what the other keeps
            file.attach(frozen_net(torch.float32).to(loaded))
    else:
        file.attach(frozen_net(torch.float32).to(loaded))


def test_other_weights_are_refused_unless_allowed(path: Path) -> None:
    file, net = AdapterFile.load(path), frozen_net(torch.float32)
    with file.attach(net) as first:
        first.merge()
        file.attach(net).detach()  # what counts is the weight without adapters
    net.first.weight[0, 0] += 0.01
    with pytest.raises(IncompatibleModelError, match=r"1 of 2 .*, first the first.*any_base=True.*'pocket'"):
        file.attach(net)
    assert type(net.first) is torch.nn.Linear
    assert file.attach(net, any_base=True).attached


@pytest.mark.parametrize("any_base", [False, True])
def test_other_architectures_are_always_refused(path: Path, any_base: bool) -> None:
    file, net = AdapterFile.load(path), frozen_net(torch.float32)
    net.block["second"] = torch.nn.Linear(4, 6)
    with pytest.raises(IncompatibleModelError, match=r"block\.second is 6x4, the adapter's 6x5.*'pocket'"):
        file.attach(net, any_base=any_base)
    del net.block["second"]
    with pytest.raises(IncompatibleModelError, match=r"no layer block\.second.*'pocket'"):
        file.attach(net, any_base=any_base)
    assert type(net.first) is torch.nn.Linear


def test_norms_are_those_of_the_change(path: Path) -> None:
    file = AdapterFile.load(path)
    net = frozen_net(torch.float32)
    with file.attach(net) as attached, torch.no_grad():
        expected = {
            name: float(adapter.delta_weight(layer.weight).norm()) for name, layer, adapter in attached.layers()
        }
    assert file.layer_norms() == pytest.approx(expected, rel=1e-5)
