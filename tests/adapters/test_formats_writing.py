"""What is written acts in PEFT and LyCORIS as it does here, and is read back as it was."""

# pyright: reportArgumentType=false

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules import get_module, make_module
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.formats import read_adapter, to_diffusers, to_peft_folder
from dreamtune.errors import ConfigError
from tests.adapters.foreign import OPTIONS, file_of, file_on, real_layer, to_kohya, whole_ranks, with_two_ranks
from tests.adapters.nets import TARGETS, attached_to, config_of, disturb, frozen_net, in_unet, inputs, part_of_unet


def output(file: AdapterFile) -> Tensor:
    net = frozen_net(torch.float32)
    with file.attach(net):
        return net(inputs(torch.float32))


def unet_output(file: AdapterFile) -> Tensor:
    net = part_of_unet()
    with file.attach(net):
        return net(inputs(torch.float32))


def peft_folder(file: AdapterFile, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    (tensors, metadata), config = to_peft_folder(file, dtype)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


PEFT = [kind for kind in OPTIONS if "decomposed" not in kind]
FILES: dict[str, Callable[[], AdapterFile]] = {kind: lambda kind=kind: file_of(kind) for kind in PEFT}
FILES |= {f"two ranks of {method}": lambda method=method: with_two_ranks(method) for method in ("lora", "dora", "loha")}


@pytest.mark.parametrize("kind", FILES)
def test_peft_reads_the_same(kind: str, tmp_path: Path) -> None:
    file = in_unet(FILES[kind]())
    folder = peft_folder(file, tmp_path)
    model: Any = PeftModel.from_pretrained(part_of_unet(), str(folder))
    torch.testing.assert_close(model.eval()(inputs(torch.float32)), unet_output(file), rtol=1e-4, atol=1e-5)
    back = read_adapter(folder)
    assert back.remarks == ()
    torch.testing.assert_close(unet_output(back.file), unet_output(file), rtol=1e-4, atol=1e-5)


def lycoris_output(tensors: dict[str, Tensor]) -> Tensor:
    net = frozen_net(torch.float32)
    for path in ("first", "block.second"):
        layer, name = net.get_submodule(path), f"lora_unet_{path.replace('.', '_')}"
        kind, parameters = get_module(tensors, name)
        module: Any = make_module(kind, parameters, name, layer)
        module.apply_to()
    return net(inputs(torch.float32)).detach()


@pytest.mark.parametrize("kind", OPTIONS)
def test_lycoris_reads_the_same(kind: str) -> None:
    tensors, metadata = to_kohya(file_of(kind), torch.float32)
    torch.testing.assert_close(lycoris_output(tensors), output(file_of(kind)), rtol=1e-4, atol=1e-5)
    assert metadata["ss_network_module"] == ("networks.lora" if kind in ("lora", "rslora") else "lycoris.kohya")


MODULES: dict[str, nn.Module] = {
    "down_blocks.0.attentions.0.proj_in": nn.Conv2d(12, 8, 1),
    "down_blocks.0.resnets.0.conv1": nn.Conv2d(12, 8, 3, padding=1),
    "down_blocks.0.resnets.0.time_emb_proj": nn.Linear(12, 8),
}
"""By the names of their layers in SD 1.x, whose projections are convolutions."""


def on_modules(kind: str) -> AdapterFile:
    method, options = OPTIONS[kind]
    weights = {path: module.get_parameter("weight").detach() for path, module in MODULES.items()}
    if kind == "whole lokr":
        return file_on(method, weights, whole_ranks(weights, 2), factor=2)
    return file_on(method, weights, **options)


def check_changes(file: AdapterFile, after: dict[str, Tensor]) -> None:
    for path, adapter in file.adapters().items():
        weight = MODULES[path].get_parameter("weight").detach()
        change = adapter.delta_weight(weight.flatten(1)).detach().reshape(weight.shape)
        torch.testing.assert_close(after[path].detach() - weight, change, rtol=1e-4, atol=1e-5, msg=path)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("merged", [True, False])
def test_lycoris_merges_and_convolves_the_same(kind: str, merged: bool) -> None:
    """Its merging multiplies LoHa and LoKr by alpha/rank twice."""
    file = on_modules(kind)
    tensors, _ = to_kohya(file, torch.float32)
    after, used = {}, set()
    for path, layer in MODULES.items():
        name = f"lora_unet_{path.replace('.', '_')}"
        found, parameters = get_module(tensors, name)
        assert found is not None
        used |= {f"{name}.{key}" for key in found.weight_list}
        module: Any = make_module(found, parameters, name, copy.deepcopy(layer))
        if merged:
            module.merge_to(1.0)
            after[path] = module.org_module[0].weight
        else:
            module.apply_to()
            after[path] = weight_of(module.org_module[0].forward, layer)
    check_changes(file, after)
    assert tensors.keys() <= used


def weight_of(forward: Callable[[Tensor], Tensor], layer: nn.Module) -> Tensor:
    """(out, in) or (out, in, kh, kw): what it makes of each input alone, at each place of the kernel."""
    weight = layer.get_parameter("weight")
    zero = forward(torch.zeros(1, weight.shape[1], *[1] * (weight.ndim - 2)))
    if weight.ndim == 2:
        return (forward(torch.eye(weight.shape[1])) - zero).T
    size = 2 * weight.shape[-1] - 1
    pulses = torch.zeros(weight.shape[1], weight.shape[1], size, size)
    pulses[range(weight.shape[1]), range(weight.shape[1]), size // 2, size // 2] = 1
    bias = layer.get_parameter("bias")[:, None, None]
    answers = (forward(pulses) - bias).flip(-1, -2)
    start = (size - weight.shape[-1]) // 2
    return answers[..., start : start + weight.shape[-1], start : start + weight.shape[-1]].transpose(0, 1)


@pytest.mark.parametrize("kind", PEFT)
def test_peft_convolves_the_same(kind: str, tmp_path: Path) -> None:
    file = on_modules(kind)
    net = nn.Module()
    for path, module in MODULES.items():
        inner = net
        for piece in path.split(".")[:-1]:
            if piece not in dict(inner.named_children()):
                inner.add_module(piece, nn.Module())
            inner = inner.get_submodule(piece)
        inner.add_module(path.rsplit(".", 1)[-1], copy.deepcopy(module))
    model: Any = PeftModel.from_pretrained(net, str(peft_folder(file, tmp_path)))
    merged = model.merge_and_unload()
    check_changes(file, {path: merged.get_submodule(path).weight for path in MODULES})


@pytest.mark.parametrize("method", ["lora", "dora", "loha"])
def test_lycoris_reads_ranks_of_layers(method: str) -> None:
    tensors, _ = to_kohya(with_two_ranks(method), torch.float32)
    torch.testing.assert_close(lycoris_output(tensors), output(with_two_ranks(method)), rtol=1e-4, atol=1e-5)


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
        with pytest.raises(ConfigError, match=f"diffusers does not read {file.method} files: for PEFT, write a folder"):
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
        whole = AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})
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


@pytest.mark.parametrize("kind", ["decomposed loha", "decomposed lokr"])
def test_what_peft_lacks(kind: str) -> None:
    with pytest.raises(ConfigError, match="PEFT has no weight decomposition for lo.*use the format kohya"):
        to_peft_folder(file_of(kind), torch.float32)


def test_what_no_format_holds() -> None:
    with attached_to(frozen_net(torch.float32), "spectral-a") as attached:
        file = AdapterFile.from_attached(attached, base="b", token="", class_word="", training={})
    for form in (to_kohya, to_diffusers, to_peft_folder):
        with pytest.raises(
            ConfigError, match="does not support spectral-a, only lora, dora, loha, lokr.*convert it to plain LoRA"
        ):
            form(file, torch.float32)
    large = file_of("lora")
    tensors = {name: tensor * 1e6 for name, tensor in large.tensors.items()}
    with pytest.raises(ConfigError, match=r"layer first do not fit into torch.float16: use fp32 or bf16"):
        to_kohya(AdapterFile(**{**vars(large), "tensors": tensors}), torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("dora", to_kohya),
        ("dora", to_diffusers),
        ("dora", to_peft_folder),
        ("decomposed loha", to_kohya),
        ("decomposed lokr", to_kohya),
    ],
)
def test_magnitudes_keep_their_precision(kind: str, form: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """They are about ‖W‖: rounded to bf16 they would change W by 2e-3 of it, which is percents of ΔW."""
    method, options = OPTIONS[kind]
    with attach(frozen_net(torch.float32), config_of(method, **options), TARGETS) as attached:
        for _, layer, adapter in attached.layers():
            start = {name: parameter.detach().clone() for name, parameter in adapter.named_parameters()}
            disturb(adapter, layer.base_weight)
            for name, parameter in adapter.named_parameters():
                parameter.data = start[name] + 0.04 * (parameter.data - start[name])
        whole = AdapterFile.from_attached(attached, base="b", token="sks", class_word="dog", training={})
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    file = real_layer(whole, path)
    content = form(file, dtype)
    (tensors, metadata), config = content if form is to_peft_folder else (content, None)
    for name, tensor in tensors.items():
        kept = any(ending in name for ending in (".alpha", "dora_scale", "lora_magnitude_vector"))
        assert tensor.dtype == (torch.float32 if kept else dtype), name
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata)
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weight = frozen_net(torch.float32).first.weight.detach()
    back = read_adapter(tmp_path if config else tmp_path / "adapter_model.safetensors").file
    change = file.adapters()[path].delta_weight(weight)
    assert 0 < (back.adapters()[path].delta_weight(weight) - change).norm() < 5e-3 * change.norm()
    assert change.norm() < 0.1 * weight.norm()


@pytest.mark.parametrize("kind", ["dora", "decomposed loha", "decomposed lokr"])
def test_lycoris_reads_mixed_precisions(kind: str) -> None:
    tensors, _ = to_kohya(file_of(kind), torch.bfloat16)
    torch.testing.assert_close(lycoris_output(tensors), output(file_of(kind)), rtol=2e-2, atol=2e-2)


def test_peft_reads_mixed_precisions(tmp_path: Path) -> None:
    folder = peft_folder(in_unet(file_of("dora")), tmp_path, torch.bfloat16)
    model: Any = PeftModel.from_pretrained(part_of_unet(), str(folder))
    expected = unet_output(read_adapter(folder).file)
    torch.testing.assert_close(model.eval()(inputs(torch.float32)), expected, rtol=1e-4, atol=1e-5)
