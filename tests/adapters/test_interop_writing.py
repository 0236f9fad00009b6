"""What is written acts in the tool that reads it as it does here: PEFT, LyCORIS; diffusers in the pipelines' tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules import get_module, make_module
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.interop import read_adapter, to_diffusers, to_kohya, to_peft_folder
from dreamtune.errors import ConfigError
from tests.adapters.nets import TARGETS, attached_to, config_of, disturb, frozen_net, inputs

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "rslora": ("lora", {"rslora": True}),
    "dora": ("dora", {}),
    "loha": ("loha", {}),
    "rank-stabilised loha": ("loha", {"rslora": True}),
    "lokr": ("lokr", {"rank": 1}),
    "whole lokr": ("lokr", {"rank": 5, "factor": 2}),
    "lokr of factors": ("lokr", {"rank": 1, "decompose_both": True}),
    "decomposed loha": ("loha", {"weight_decompose": True}),
    "decomposed lokr": ("lokr", {"weight_decompose": True}),
}


def file_of(kind: str) -> AdapterFile:
    method, options = OPTIONS[kind]
    with attached_to(frozen_net(torch.float32), method, **options) as attached:
        return AdapterFile.from_attached(attached, base="b", trigger="sks", class_word="dog", training={})


def with_two_ranks(method: str) -> AdapterFile:
    net = frozen_net(torch.float32)
    with attach(net, config_of(method), TARGETS, ranks={"second": 3}) as attached:
        for _, layer, adapter in attached.layers():
            disturb(adapter, layer.pristine)
        return AdapterFile.from_attached(attached, base="b", trigger="sks", class_word="dog", training={})


def output(file: AdapterFile) -> Tensor:
    net = frozen_net(torch.float32)
    with file.attach(net):
        return net(inputs(torch.float32))


def peft_folder(file: AdapterFile, folder: Path) -> Path:
    (tensors, metadata), config = to_peft_folder(file, torch.float32)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


PEFT = [kind for kind in OPTIONS if "decomposed" not in kind]
FILES: dict[str, Callable[[], AdapterFile]] = {kind: lambda kind=kind: file_of(kind) for kind in PEFT}
FILES |= {f"two ranks of {method}": lambda method=method: with_two_ranks(method) for method in ("lora", "dora", "loha")}


@pytest.mark.parametrize("kind", FILES)
def test_peft_reads_the_same(kind: str, tmp_path: Path) -> None:
    file = FILES[kind]()
    folder = peft_folder(file, tmp_path)
    model: Any = PeftModel.from_pretrained(frozen_net(torch.float32), str(folder))  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(model.eval()(inputs(torch.float32)), output(file), rtol=1e-4, atol=1e-5)
    back = read_adapter(folder)
    assert back.remarks == ()
    torch.testing.assert_close(output(back.file), output(file), rtol=1e-4, atol=1e-5)


def lycoris_output(tensors: dict[str, Tensor]) -> Tensor:
    net = frozen_net(torch.float32)
    for path in ("first", "block.second"):
        layer, name = net.get_submodule(path), f"lora_unet_{path.replace('.', '_')}"
        kind, parameters = get_module(tensors, name)
        module: Any = make_module(kind, parameters, name, layer)  # pyright: ignore[reportArgumentType]
        module.apply_to()
    return net(inputs(torch.float32)).detach()


@pytest.mark.parametrize("kind", OPTIONS)
def test_lycoris_reads_the_same(kind: str) -> None:
    tensors, metadata = to_kohya(file_of(kind), torch.float32)
    torch.testing.assert_close(lycoris_output(tensors), output(file_of(kind)), rtol=1e-4, atol=1e-5)
    assert metadata["ss_network_module"] == ("networks.lora" if kind in ("lora", "rslora") else "lycoris.kohya")


@pytest.mark.parametrize("method", ["lora", "dora", "loha"])
def test_lycoris_reads_ranks_of_layers(method: str) -> None:
    tensors, _ = to_kohya(with_two_ranks(method), torch.float32)
    torch.testing.assert_close(lycoris_output(tensors), output(with_two_ranks(method)), rtol=1e-4, atol=1e-5)


def real_layer(file: AdapterFile, path: str) -> AdapterFile:
    """The first layer's adapter under a path of Stable Diffusion."""
    record = file.layers["first"]
    tensors = {
        f"{path}.{name.removeprefix('first.')}": t for name, t in file.tensors.items() if name.startswith("first.")
    }
    return AdapterFile(**{**vars(file), "layers": {path: record}, "tensors": tensors})


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize(
    "path",
    [
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "text_encoder.encoder.layers.0.self_attn.q_proj",
        "text_encoder_2.encoder.layers.0.self_attn.out_proj",
    ],
)
@pytest.mark.parametrize("form", [to_kohya, to_diffusers])
def test_own_files_are_read_back(kind: str, path: str, form: Any, tmp_path: Path) -> None:
    file = real_layer(file_of(kind), path)
    if form is to_diffusers and file.method not in ("lora", "dora"):
        with pytest.raises(ConfigError, match=f"diffusers reads no {file.method} file: for PEFT give a folder"):
            form(file, torch.float32)
        return
    tensors, metadata = form(file, torch.float32)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    back = read_adapter(tmp_path / "a.safetensors")
    assert (list(back.file.layers), back.file.method, back.remarks) == ([path], file.method, ())
    weight = frozen_net(torch.float32).first.weight.detach()
    torch.testing.assert_close(
        back.file.adapters()[path].delta_weight(weight), file.adapters()[path].delta_weight(weight)
    )


@pytest.mark.parametrize("method", ["dora", "loha", "lokr"])
def test_magnitudes_of_inputs(method: str, tmp_path: Path) -> None:
    options = {} if method == "dora" else {"weight_decompose": True}
    with attached_to(frozen_net(torch.float32), method, by_input=True, **options) as attached:
        whole = AdapterFile.from_attached(attached, base="b", trigger="sks", class_word="dog", training={})
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    file = real_layer(whole, path)
    tensors, metadata = to_kohya(file, torch.float32)
    assert [t.shape for name, t in tensors.items() if name.endswith("dora_scale")] == [(1, 7)]
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    weight = frozen_net(torch.float32).first.weight.detach()
    back = read_adapter(tmp_path / "a.safetensors").file.adapters()[path]
    torch.testing.assert_close(back.delta_weight(weight), file.adapters()[path].delta_weight(weight))
    with pytest.raises(ConfigError, match="use the format kohya"):
        to_peft_folder(file, torch.float32)


def test_sdxl_numbers_its_text_encoders() -> None:
    def names(path: str) -> set[str]:
        return {name.split("_text_model")[0] for name in to_kohya(real_layer(file_of("lora"), path), torch.float32)[0]}

    assert names("text_encoder.encoder.layers.0.self_attn.q_proj") == {"lora_te"}
    assert names("text_encoder_2.encoder.layers.0.self_attn.q_proj") == {"lora_te2"}


@pytest.mark.parametrize("kind", ["decomposed loha", "decomposed lokr"])
def test_what_peft_lacks(kind: str) -> None:
    with pytest.raises(ConfigError, match="PEFT has no weight decomposition of lo.*use the format kohya"):
        to_peft_folder(file_of(kind), torch.float32)


def test_what_no_format_holds() -> None:
    with attached_to(frozen_net(torch.float32), "spectral-a") as attached:
        file = AdapterFile.from_attached(attached, base="b", trigger="", class_word="", training={})
    for form in (to_kohya, to_diffusers, to_peft_folder):
        with pytest.raises(ConfigError, match="other tools have no spectral-a.*use the format lora"):
            form(file, torch.float32)
    large = file_of("lora")
    tensors = {name: tensor * 1e6 for name, tensor in large.tensors.items()}
    with pytest.raises(ConfigError, match=r"layer first do not fit into torch.float16: use fp32 or bf16"):
        to_kohya(AdapterFile(**{**vars(large), "tensors": tensors}), torch.float16)


def test_precision_of_the_tensors() -> None:
    tensors, _ = to_kohya(file_of("dora"), torch.bfloat16)
    assert {t.dtype for name, t in tensors.items() if not name.endswith(".alpha")} == {torch.bfloat16}
