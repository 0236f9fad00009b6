"""Adapter files: complete, reproducible, and only for the base they were made for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from dreamtune import __version__
from dreamtune.adapters import AdapterFile, AttachedAdapter, attach
from dreamtune.adapters.methods.lora import LoRAConfig
from dreamtune.errors import AdapterFileError, ConfigError, IncompatibleModelError
from tests.adapters.nets import TRAINING, attached_to, config_of, frozen_net, inputs, make_file


def test_file_knows_what_it_is(path: Path) -> None:
    file = AdapterFile.load(path)
    assert (file.method, file.base, file.token, file.class_word) == ("lora", "pocket", "sks", "dog")
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
        "token": "sks",
        "class": "dog",
        "subjects": [{"token": "sks", "class": "dog"}],
        "layers": 2,
        "parameters": numbers,
        "embeddings": {},
        "further_embeddings": {},
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
        header = AdapterFile.from_attached(attached, base="b", token="", class_word="", training={}).to_header()
    assert header["modelspec.architecture"].startswith(names[0])
    assert header["ss_base_model_version"] == names[1]


def test_several_subjects(path: Path, tmp_path: Path) -> None:
    """They are kept beside the first, shown to other tools, and files of one subject stay as they were."""
    one = AdapterFile.load(path)
    assert (one.subjects, one.tokens, one.called) == ((("sks", "dog"),), ("sks",), "sks dog")
    assert "dreamtune.subjects" not in one.to_header()
    replace(one, others=(("zwx", "cat"), ("qpl", ""))).save(tmp_path / "more.safetensors")
    more = AdapterFile.load(tmp_path / "more.safetensors")
    assert more.subjects == (("sks", "dog"), ("zwx", "cat"), ("qpl", ""))
    assert (more.token, more.class_word, more.tokens) == ("sks", "dog", ("sks", "zwx", "qpl"))
    header = more.to_header()
    assert header["modelspec.trigger_phrase"] == header["modelspec.title"] == "sks dog, zwx cat, qpl"
    assert more.summary()["subjects"][1] == {"token": "zwx", "class": "cat"}
    assert replace(one, token="", class_word="").subjects == ()


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
    file = AdapterFile.from_attached(attached, base="b", token="t", class_word="c", training={})
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
    with pytest.raises(AdapterFileError, match=r"first\.up contains NaN.*learning rate"):
        AdapterFile.from_attached(attached, base="b", token="t", class_word="c", training={})
    attached.detach()
    with pytest.raises(AdapterFileError, match="detached"):
        AdapterFile.from_attached(attached, base="b", token="t", class_word="c", training={})


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
    with pytest.raises(IncompatibleModelError, match=r"1 of 2 .*, first first:.*any_base=True.*'pocket'"):
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
    assert {path: spectrum.norm for path, spectrum in file.spectra().items()} == pytest.approx(expected, rel=1e-5)


class Wrapped(nn.Module):
    """A text encoder as transformers' classes with a projection are: the layers lie inside `text_model`."""

    def __init__(self) -> None:
        super().__init__()
        self.text_model = frozen_net(torch.float32)


def text_file(**changes: AttachedAdapter) -> AdapterFile:
    """A file with the UNet's layers and those of a text encoder, of other values."""
    with (
        attached_to(frozen_net(torch.float32), "lora") as unet,
        attach(Wrapped(), config_of("lora"), "second", seed=1) as text,
    ):
        parts = {"text_encoder": text, **changes}
        return AdapterFile.from_attached(
            unet, base="b", token="sks", class_word="dog", training={}, text_encoders=parts
        )


def test_file_may_hold_a_text_encoder_too(tmp_path: Path) -> None:
    text_file().save(tmp_path / "a.safetensors")
    file = AdapterFile.load(tmp_path / "a.safetensors")
    assert file.parts == ("unet", "text_encoder")
    assert list(file.part("text_encoder").layers) == ["block.second"]
    assert file.part("unet").layers.keys() == make_file().layers.keys()
    for text in (Wrapped(), frozen_net(torch.float32)):  # with and without text_model, both known to transformers
        unet = frozen_net(torch.float32)
        attached = file.attach_parts({"unet": unet, "text_encoder": text}, 0.5)
        assert [(part, on.strength) for part, on in attached.items()] == [("unet", 0.5), ("text_encoder", 0.5)]
        (path,) = attached["text_encoder"].adapters
        assert path == "block.second"
        assert torch.equal(
            attached["text_encoder"].adapters[path].get_parameter("down"),
            file.tensors["text_encoder.block.second.down"],
        )
    with pytest.raises(ConfigError, match="changes unet and text_encoder: use attach_parts"):
        file.attach(frozen_net(torch.float32))
    with pytest.raises(ConfigError, match="does not change 'text_encoder_2', only unet and text_encoder"):
        file.part("text_encoder_2")


def test_parts_are_attached_all_or_none() -> None:
    unet, text, file = frozen_net(torch.float32), Wrapped(), text_file()
    with pytest.raises(IncompatibleModelError, match="changes a text_encoder, which this base does not have"):
        file.attach_parts({"unet": unet})
    text.text_model.get_submodule("block.second").get_parameter("weight")[0, 0] += 1
    with pytest.raises(IncompatibleModelError, match="1 of 1 adapted layers have other weights"):
        file.attach_parts({"unet": unet, "text_encoder": text})
    assert {type(unet.first), type(text.text_model.get_submodule("block.second"))} == {nn.Linear}


def test_parts_of_one_file_share_the_method_and_have_known_names() -> None:
    with pytest.raises(AdapterFileError, match="lora on 'vae' cannot share a file"):
        text_file(vae=attached_to(frozen_net(), "lora"))


def test_weights_that_are_not_known_are_not_compared(path: Path) -> None:
    file = AdapterFile.load(path)
    layers = {name: replace(record, fingerprint=None) for name, record in file.layers.items()}
    replace(file, layers=layers, base="").save(path)
    file, net = AdapterFile.load(path), frozen_net(torch.float32)
    assert {record.fingerprint for record in file.layers.values()} == {None}
    net.first.weight[0, 0] += 1
    assert file.attach(net).attached
    del net.block["second"]
    with pytest.raises(IncompatibleModelError, match=r"no layer block\.second.*does not record its base"):
        file.attach(net)
