"""What is written acts in the tool that reads it as it does here: PEFT, LyCORIS, and LoRA of kohya's in diffusers.

kohya's sd-scripts is no package and is not asked itself: its names of SDXL's layers are given to diffusers, which has
its own rules for them, and in test_interop_names.py compared with those of a checkpoint.
"""

# pyright: reportArgumentType=false

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lycoris.modules import get_module, make_module
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, attach
from dreamtune.adapters.interop import read_adapter, to_diffusers, to_peft_folder
from dreamtune.adapters.interop import to_kohya as any_to_kohya
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


def to_kohya(file: AdapterFile, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As for SD 1.x: the small network's paths do not tell; a second text encoder does."""
    return any_to_kohya(file, dtype, sdxl=None if "text_encoder_2" in file.parts else False)


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
    file = FILES[kind]()
    folder = peft_folder(file, tmp_path)
    model: Any = PeftModel.from_pretrained(frozen_net(torch.float32), str(folder))
    torch.testing.assert_close(model.eval()(inputs(torch.float32)), output(file), rtol=1e-4, atol=1e-5)
    back = read_adapter(folder)
    assert back.remarks == ()
    torch.testing.assert_close(output(back.file), output(file), rtol=1e-4, atol=1e-5)


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


def pipeline(folder: Path) -> Any:
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").is_dir() else StableDiffusionPipeline
    return kind.from_pretrained(folder)


def file_on(
    pipe: Any, targets: str, parts: tuple[str, ...], ranks: dict[str, int], method: str = "lora", **options: Any
) -> AdapterFile:
    """As in the middle of a training, on the UNet of a pipeline and these text encoders; ranks: for the UNet."""
    config = config_of(method, **options)
    unet = attach(pipe.unet, config, targets, ranks=ranks)
    others = {part: attach(getattr(pipe, part), config, "text", ranks={"q_proj": 1}) for part in parts}
    for one in (unet, *others.values()):
        for _, layer, adapter in one.layers():
            disturb(adapter, layer.pristine)
    file = AdapterFile.from_attached(unet, base="b", trigger="sks", class_word="dog", training={}, text_encoders=others)
    for one in (unet, *others.values()):
        one.detach()
    return file


def weights_of(file: AdapterFile, pipe: Any) -> dict[str, Tensor]:
    return {path: w.clone() for path, w in file.weights({part: getattr(pipe, part) for part in file.parts}).items()}


def check_in_diffusers(file: AdapterFile, pipe: Any, path: Path) -> None:
    """diffusers' own loading changes each weight by this file's ΔW, and dreamtune's reading says the same."""
    before, read = weights_of(file, pipe), read_adapter(path)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after, back = weights_of(file, pipe), read.file.adapters()
    assert (back.keys(), read.remarks) == (file.layers.keys(), ())
    for layer, adapter in file.adapters().items():
        change = adapter.delta_weight(before[layer]).detach()
        torch.testing.assert_close(after[layer] - before[layer], change, rtol=1e-4, atol=1e-5, msg=layer)
        torch.testing.assert_close(back[layer].delta_weight(before[layer]).detach(), change, msg=layer)


@pytest.mark.parametrize("ranks", [{}, {"to_out": 1, "to_q": 3, "attn2.to_k": 5}])
@pytest.mark.parametrize("rslora", [False, True])
def test_diffusers_reads_ranks_of_layers(ranks: dict[str, int], rslora: bool, tiny: Path, tmp_path: Path) -> None:
    """It loses the alphas of a UNet's layers that differ from the rest, and says nothing."""
    pipe = pipeline(tiny)
    file = file_on(pipe, "attn", ("text_encoder",), ranks, rslora=rslora)
    tensors, metadata = any_to_kohya(file, torch.float32)
    assert len({float(t) for name, t in tensors.items() if name.endswith(".alpha")}) == 1
    found = {t.shape[0] for name, t in tensors.items() if name.endswith("lora_down.weight")}
    assert found == {2, 1, *ranks.values()}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    check_in_diffusers(file, pipe, tmp_path / "a.safetensors")


def test_equal_alphas_leave_the_factors_as_they_are() -> None:
    file = file_of("lora")
    tensors, _ = to_kohya(file, torch.float32)
    for path in file.layers:
        name = f"lora_unet_{path.replace('.', '_')}"
        assert float(tensors[f"{name}.alpha"]) == file.config.alpha
        torch.testing.assert_close(tensors[f"{name}.lora_up.weight"], file.tensors[f"{path}.up"], rtol=0, atol=0)


OF_EACH_KIND = r"attn1\.to_q|attn2\.to_out|proj_in|ff|emb"
"""Of attention blocks, of the resnets, and of the embeddings of time and size."""


@pytest.mark.parametrize("parts", [(), ("text_encoder", "text_encoder_2")])
def test_diffusers_reads_the_names_of_sdxl(parts: tuple[str, ...], tiny_sdxl: Path, tmp_path: Path) -> None:
    pipe = pipeline(tiny_sdxl)
    file = file_on(pipe, OF_EACH_KIND, parts, {"to_out": 1})
    tensors, metadata = any_to_kohya(file, torch.float32)
    assert not any("_blocks_" in name.split("transformer_blocks")[0].replace("put_blocks", "") for name in tensors)
    starts = {name.split("_")[1] for name in tensors}
    assert starts == ({"unet", "te1", "te2"} if parts else {"unet"})
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    check_in_diffusers(file, pipe, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("text_encoder_2.encoder.layers.0.self_attn.q_proj", "lora_te2_"),
        ("up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_output_blocks_0_1_"),
        ("mid_block.attentions.0.transformer_blocks.1.attn1.to_q", "lora_unet_middle_block_1_"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_down_blocks_0_"),
        ("up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_up_blocks_3_"),
    ],
)
def test_layers_tell_the_base(path: str, start: str) -> None:
    tensors, _ = any_to_kohya(real_layer(file_of("lora"), path), torch.float32)
    assert all(name.startswith(start) for name in tensors)


@pytest.mark.parametrize(("width", "start"), [(768, "mid_block"), (1024, "mid_block"), (2048, "middle_block")])
def test_keys_of_the_text_tell_the_base(width: int, start: str) -> None:
    net = nn.Module()
    net.attn2 = nn.Module()
    net.attn2.to_v = nn.Linear(width, 2)
    unet = nn.Module()
    unet.mid_block = nn.Module()
    unet.mid_block.attentions = nn.ModuleList([nn.Module()])
    unet.mid_block.attentions[0].transformer_blocks = nn.ModuleList([net])
    with attach(unet, config_of("lora"), "to_v") as attached:
        file = AdapterFile.from_attached(attached, base="b", trigger="", class_word="", training={})
    assert all(name.startswith(f"lora_unet_{start}_") for name in any_to_kohya(file, torch.float32)[0])


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "lora_unet_middle_block_1_"),
        ("text_encoder.encoder.layers.0.self_attn.q_proj", "lora_te1_"),
    ],
)
def test_layers_that_do_not_tell_the_base(path: str, first: str) -> None:
    file = real_layer(file_of("lora"), path)
    with pytest.raises(ConfigError, match="layers do not tell whether they are of SDXL.*give the base"):
        any_to_kohya(file, torch.float32)
    assert all(name.startswith(first) for name in any_to_kohya(file, torch.float32, sdxl=True)[0])


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
            disturb(adapter, layer.pristine)
            for name, parameter in adapter.named_parameters():
                parameter.data = start[name] + 0.04 * (parameter.data - start[name])
        whole = AdapterFile.from_attached(attached, base="b", trigger="sks", class_word="dog", training={})
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
    folder = peft_folder(file_of("dora"), tmp_path, torch.bfloat16)
    model: Any = PeftModel.from_pretrained(frozen_net(torch.float32), str(folder))
    expected = output(read_adapter(folder).file)
    torch.testing.assert_close(model.eval()(inputs(torch.float32)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusers_reads_mixed_precisions(dtype: torch.dtype, tiny: Path, tmp_path: Path) -> None:
    """Into a pipeline in fp32, and into one in half precision, to which it rounds the magnitudes itself."""
    pipe = pipeline(tiny)
    file = file_on(pipe, "attn", ("text_encoder",), {}, method="dora")
    pipe.to(dtype=dtype)
    tensors, metadata = to_diffusers(file, torch.bfloat16)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    before = weights_of(file, pipe)
    pipe.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for layer, weight in weights_of(file, pipe).items():
        change = file.adapters()[layer].delta_weight(before[layer].float()).detach()
        assert (weight.float() - before[layer].float() - change).norm() < 2e-2 * change.norm(), layer
