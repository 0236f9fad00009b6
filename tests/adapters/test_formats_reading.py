"""Files of PEFT, diffusers, kohya and LyCORIS, written by those tools where they can, act here as they do there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lycoris.modules import get_module, make_module
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats import read_adapter
from dreamtune.errors import AdapterFileError
from tests.adapters.nets import inputs, part_of_unet

Tensors = dict[str, Tensor]
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
ORIGINAL = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def randomised(module: nn.Module) -> nn.Module:
    """The same with random values in the adapter's parameters; magnitudes stay positive."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in module.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_")):
            value = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(value.abs() + 0.5 if "magnitude" in name else 0.5 * value)
    return module


def written(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


PEFT_CONFIGS: dict[str, Callable[..., Any]] = {
    "lora": lambda **o: LoraConfig(r=2, lora_alpha=5, **o),
    "rslora": lambda **o: LoraConfig(r=2, lora_alpha=5, use_rslora=True, **o),
    "ranks": lambda **o: LoraConfig(
        r=2, lora_alpha=5, rank_pattern={"linear_2": 3}, alpha_pattern={"^time_embedding.linear_2": 4}, **o
    ),
    "dora": lambda **o: LoraConfig(r=2, lora_alpha=5, use_dora=True, **o),
    "loha": lambda **o: LoHaConfig(r=2, alpha=5, **o),
    "lokr": lambda **o: LoKrConfig(r=1, alpha=3, **o),
    "lokr whole": lambda **o: LoKrConfig(r=4, alpha=3, decompose_factor=2, **o),
    "lokr both": lambda **o: LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=2, **o),
}


@pytest.mark.parametrize("kind", PEFT_CONFIGS)
def test_folder_of_peft(kind: str, tmp_path: Path) -> None:
    net, x = part_of_unet(), inputs(torch.float32)
    model = get_peft_model(net, PEFT_CONFIGS[kind](target_modules=["linear_1", "linear_2"]))  # pyright: ignore[reportArgumentType]
    randomised(model)
    model.save_pretrained(str(tmp_path))
    expected = model.eval()(x)
    imported = read_adapter(tmp_path)
    assert (imported.tool, imported.remarks) == ("PEFT", ())
    assert imported.file.base == ""
    own = part_of_unet()
    imported.file.attach(own)
    torch.testing.assert_close(own(x), expected)
    assert not torch.allclose(expected, part_of_unet()(x), atol=1e-2)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_file_of_diffusers(kind: str, prefix: str, tmp_path: Path) -> None:
    net, x = part_of_unet(), inputs(torch.float32)
    config = PEFT_CONFIGS[kind](target_modules=["linear_1", "linear_2"])
    randomised(inject_adapter_in_model(config, net))
    state = {f"{prefix}{name}": value for name, value in get_peft_model_state_dict(net).items()}
    expected = net.eval()(x)
    told = {f"unet.{key}": list(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
    path = written(tmp_path / "a.safetensors", state, {"lora_adapter_metadata": json.dumps(told)})
    own = part_of_unet()
    imported = read_adapter(path)
    with imported.file.attach(own):
        torch.testing.assert_close(own(x), expected)
    assert imported.remarks == ()
    guess = read_adapter(written(tmp_path / "b.safetensors", state))
    assert "the file has no alpha for 2 layers: the rank is assumed" in guess.remarks[0]
    assert guess.file.config.scale == 1


def delta(file: AdapterFile, weight: Tensor | None = None) -> Tensor:
    (adapter,) = file.adapters().values()
    return adapter.delta_weight(torch.zeros(adapter.shape) if weight is None else weight).detach()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


KOHYA_LAYERS: dict[str, Callable[[], Tensors]] = {
    "lora": lambda: {"lora_up.weight": rand(12, 2), "lora_down.weight": rand(2, 8), "alpha": torch.tensor(3.0)},
    "lora without alpha": lambda: {"lora_up.weight": rand(12, 2), "lora_down.weight": rand(2, 8)},
    "dora": lambda: {**KOHYA_LAYERS["lora"](), "dora_scale": rand(12, 1).abs()},
    "loha": lambda: {
        "hada_w1_a": rand(12, 2),
        "hada_w1_b": rand(2, 8),
        "hada_w2_a": rand(12, 2, seed=1),
        "hada_w2_b": rand(2, 8, seed=1),
        "alpha": torch.tensor(3.0),
    },
    "decomposed loha": lambda: {**KOHYA_LAYERS["loha"](), "dora_scale": rand(12, 1).abs()},
    "lokr": lambda: {"lokr_w1": rand(3, 2), "lokr_w2_a": rand(4, 1), "lokr_w2_b": rand(1, 4), "alpha": torch.tensor(3)},
    "whole lokr": lambda: {"lokr_w1": rand(2, 2), "lokr_w2": rand(6, 4), "alpha": torch.tensor(3.0)},
    "lokr of other sizes": lambda: {  # no factor of 12 splits it so
        "lokr_w1_a": rand(4, 1),
        "lokr_w1_b": rand(1, 4),
        "lokr_w2_a": rand(3, 1),
        "lokr_w2_b": rand(1, 2),
        "alpha": torch.tensor(2.0),
    },
    "decomposed lokr": lambda: {**KOHYA_LAYERS["lokr"](), "dora_scale": rand(12, 1).abs()},
    "older dora": lambda: {**KOHYA_LAYERS["lora"](), "dora_scale": rand(1, 8).abs()},
    "older decomposed loha": lambda: {**KOHYA_LAYERS["loha"](), "dora_scale": rand(1, 8).abs()},
    "older decomposed lokr": lambda: {**KOHYA_LAYERS["lokr"](), "dora_scale": rand(1, 8).abs()},
}


def lycoris_change(tensors: Tensors, weight: Tensor) -> Tensor:
    """W' − W as LyCORIS' forward pass has it; its merging applies alpha/rank twice to LoHa and LoKr."""
    if tensors.keys() >= {"lokr_w1_a", "lokr_w2_a"}:  # its loader knows only sizes that a factor gives
        w1, w2 = (tensors[f"lokr_w{n}_a"] @ tensors[f"lokr_w{n}_b"] for n in "12")
        return tensors["alpha"] / tensors["lokr_w1_a"].shape[1] * torch.kron(w1, w2)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    scale = tensors.get("dora_scale", weight)
    by_input = scale.shape[0] == 1
    loaded = {**tensors, "dora_scale": rand(12, 1)} if by_input else tensors  # its loader knows only the newer shape
    state = {f"x.{name}": tensor for name, tensor in {"alpha": default_alpha(tensors), **loaded}.items()}
    kind, parameters = get_module(state, "x")
    module: Any = make_module(cast(Any, kind), parameters, "x", layer)
    if by_input:
        module.wd_on_out, module.dora_scale = False, nn.Parameter(scale)
    module.apply_to()
    return (layer(torch.eye(weight.shape[1])).T - weight).detach()


def default_alpha(tensors: Tensors) -> Tensor:
    return torch.tensor(float(tensors["lora_down.weight"].shape[0] if "lora_down.weight" in tensors else 1))


@pytest.mark.parametrize("kind", KOHYA_LAYERS)
def test_layer_of_kohya_and_lycoris(kind: str, tmp_path: Path) -> None:
    tensors, weight = KOHYA_LAYERS[kind](), rand(12, 8, seed=9)
    path = written(tmp_path / "a.safetensors", {f"{KOHYA}.{name}": tensor for name, tensor in tensors.items()})
    imported = read_adapter(path)
    assert list(imported.file.layers) == [PATH]
    assert imported.tool == ("kohya" if {"lora", "dora"} & set(kind.split()) else "LyCORIS")
    assert len(imported.remarks) == (kind == "lora without alpha")
    torch.testing.assert_close(delta(imported.file, weight), lycoris_change(tensors, weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr whole"])
@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model."])
def test_alpha_that_peft_keeps_elsewhere_is_remarked_on(kind: str, prefix: str, tmp_path: Path) -> None:
    net = part_of_unet()
    randomised(inject_adapter_in_model(PEFT_CONFIGS[kind](target_modules=["linear_1", "linear_2"]), net))
    state = {f"{prefix}{name}": value for name, value in get_peft_model_state_dict(net).items()}
    imported = read_adapter(written(tmp_path / "a.safetensors", state))
    assert imported.tool == "PEFT"
    assert "the file has no alpha for 2 layers" in imported.remarks[0]


@pytest.mark.parametrize("start", ["", "text_model."])
def test_folder_of_peft_of_a_text_encoder(start: str, tmp_path: Path) -> None:
    layer = "encoder.layers.0.self_attn.q_proj"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    tensors = {
        f"base_model.model.{start}{layer}.lora_{name}.weight": tensor
        for name, tensor in (("A", rand(2, 8)), ("B", rand(12, 2)))
    }
    written(tmp_path / "adapter_model.safetensors", tensors)
    file = read_adapter(tmp_path).file
    assert (list(file.layers), file.config.scale) == ([f"text_encoder.{layer}"], 3)


Q, FEATURES = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.net.0.proj"
NAMES = {
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"
    ),
    "lora_unet_mid_block_attentions_0_transformer_blocks_9_ff_net_0_proj": (
        "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj"
    ),
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q": f"down_blocks.0.attentions.0.{Q}",
    "lora_unet_input_blocks_8_1_transformer_blocks_0_attn1_to_q": f"down_blocks.2.attentions.1.{Q}",
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q": f"mid_block.attentions.0.{Q}",
    "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q": f"up_blocks.0.attentions.0.{Q}",
    "lora_unet_output_blocks_11_1_transformer_blocks_0_ff_net_0_proj": f"up_blocks.3.attentions.2.{FEATURES}",
    "lora_unet_output_blocks_5_0_emb_layers_1": "up_blocks.1.resnets.2.time_emb_proj",
    "lora_unet_time_embed_0": "time_embedding.linear_1",
    "lora_unet_label_emb_0_2": "add_embedding.linear_2",
    "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q": f"mid_block.attentions.0.{Q}",
    "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k": (
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
    ),
    "lora_te_text_model_encoder_layers_3_self_attn_q_proj": "text_encoder.encoder.layers.3.self_attn.q_proj",
    "lora_te1_text_model_encoder_layers_3_mlp_fc1": "text_encoder.encoder.layers.3.mlp.fc1",
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": ("text_encoder_2.encoder.layers.31.self_attn.out_proj"),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q": f"down_blocks.0.attentions.0.{Q}",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    ),
    "text_encoder.text_model.encoder.layers.0.self_attn.to_out": "text_encoder.encoder.layers.0.self_attn.out_proj",
    "text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj": "text_encoder_2.encoder.layers.0.self_attn.k_proj",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_layers(name: str, tmp_path: Path) -> None:
    old = ".processor." in name or name.endswith(("to_out", ".to_q"))
    down, up = ("_lora.down.weight", "_lora.up.weight") if old else (".lora_down.weight", ".lora_up.weight")
    path = written(tmp_path / "a.safetensors", {f"{name}{down}": rand(2, 8), f"{name}{up}": rand(12, 2)})
    assert list(read_adapter(path).file.layers) == [NAMES[name]]


def lora(name: str = KOHYA, *, kernel: bool = False) -> Tensors:
    return {f"{name}.{key}": t[..., None, None] if kernel else t for key, t in KOHYA_LAYERS["lora"]().items()}


@pytest.mark.parametrize(
    ("tensors", "kind", "first"),
    [
        ({f"{KOHYA[:-10]}norm1.w_norm": rand(8), f"{KOHYA[:-10]}norm1.b_norm": rand(8)}, "2 norms", "norm1.b_norm"),
        ({"unet.conv_norm_out.weight": rand(8), "unet.conv_norm_out.bias": rand(8)}, "2 norms", "conv_norm_out.bias"),
        ({f"{KOHYA}.diff_b": rand(8)}, "1 biases", "to_q.diff_b"),
        ({f"{KOHYA}.lora_B.bias": rand(12)}, "1 biases", "to_q.lora_B.bias"),
        ({"lora_unet_conv_norm_out.diff": rand(8)}, "1 norms", "conv_norm_out.diff"),
        ({f"base_model.model.{PATH}.base_layer.weight": rand(12, 8)}, "1 base weights", "base_layer.weight"),
        ({"base_model.model.conv_in.weight": rand(8, 4, 3, 3)}, "1 whole layers", "conv_in.weight"),
        (
            {"text_encoder.text_model.embeddings.token_embedding.lora_embedding_A": rand(2, 9)},
            "1 vocabulary embeddings",
            "token_embedding.lora_embedding_A",
        ),
    ],
)
def test_what_is_beside_an_adapter_is_left_out_and_counted(
    tensors: Tensors, kind: str, first: str, tmp_path: Path
) -> None:
    alone = read_adapter(written(tmp_path / "a.safetensors", lora()))
    imported = read_adapter(written(tmp_path / "b.safetensors", lora() | tensors))
    assert imported.file.tensors.keys() == alone.file.tensors.keys()
    assert all(torch.equal(tensor, alone.file.tensors[name]) for name, tensor in imported.file.tensors.items())
    (remark,) = imported.remarks
    assert remark.startswith(f"{kind} are left out, first ")
    assert f"{first}: images may differ" in remark
    assert imported.file.training["layers_left_out"] == len(tensors)
    with pytest.raises(AdapterFileError, match="contains no adapter"):
        read_adapter(written(tmp_path / "c.safetensors", tensors))


REFUSED: dict[str, tuple[Callable[[], Tensors], str]] = {
    "wrong dora": (lambda: lora() | {f"{KOHYA}.dora_scale": rand(3, 1)}, "the magnitude is 3x1, not 12x1 or 1x8"),
    "mixed with magnitudes": (
        lambda: (
            {f"{KOHYA}.{name}": tensor for name, tensor in KOHYA_LAYERS["dora"]().items()}
            | {f"{KOHYA.replace('to_q', 'to_k')}.{name}": tensor for name, tensor in KOHYA_LAYERS["loha"]().items()}
        ),
        "mixes methods .*, and a change by magnitudes cannot be converted",
    ),
    "two methods in a layer": (
        lambda: lora() | {f"{KOHYA}.hada_w1_a": rand(12, 2), f"{KOHYA}.lokr_w1_a": rand(12, 2)},
        "has tensors of several methods",
    ),
    "unknown tensor": (lambda: lora() | {f"{KOHYA}.lora_side": rand(2, 2)}, "1 tensors are of unknown kinds"),
    "unknown layer": (lambda: lora("lora_unet_down_blocks_0_attn_0"), "attn_0 is not a layer of Stable Diffusion"),
    "missing": (lambda: {f"{KOHYA}.lora_up.weight": rand(12, 2)}, "lacks down: the file is incomplete"),
    "surplus": (lambda: lora() | {f"{KOHYA}.hada_w1_a": rand(12, 2)}, "the file is incomplete"),
    "half a lokr": (lambda: {f"{KOHYA}.lokr_w1": rand(2, 2)}, "lacks lokr_w1 or lokr_w2"),
    "two alphas": (lambda: lora() | {f"{KOHYA}.alpha": rand(2)}, "alpha is not a single number"),
    "infinite alpha": (lambda: lora() | {f"{KOHYA}.alpha": torch.tensor(float("inf"))}, "alpha is inf"),
    "NaN": (lambda: lora() | {f"{KOHYA}.lora_up.weight": torch.full((12, 2), torch.nan)}, "contains NaN or infinity"),
    "unlike ranks": (lambda: lora() | {f"{KOHYA}.lora_up.weight": rand(12, 3)}, r"is 12x3, not|do not fit together"),
    "empty": (
        lambda: {f"{KOHYA}.lora_up.weight": rand(12, 0), f"{KOHYA}.lora_down.weight": rand(0, 8)},
        "down is empty",
    ),
    "unlike twins": (
        lambda: lora() | lora(ORIGINAL) | {f"{ORIGINAL}.alpha": torch.tensor(1.0)},
        "the same layer, but differ",
    ),
    "twin without alpha": (
        lambda: {k: t for k, t in (lora() | lora(ORIGINAL)).items() if k != f"{KOHYA}.alpha"},
        "differ",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(AdapterFileError, match=message):
        read_adapter(written(tmp_path / "a.safetensors", make()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not a JSON object"),
        (json.dumps({"peft_type": "IA3"}), "has the method IA3"),
        (json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": "x"}), "r = 2, alpha = 'x' of .* are not valid"),
        (json.dumps({"peft_type": "LORA", "r": 0, "lora_alpha": 1}), "are not valid"),
        (json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": float("nan")}), "alpha = nan .* are not valid"),
        (json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 10**400}), "alpha = 10{39} of .* are not valid"),
        (json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_qalora": True}), "sets use_qalora"),
        (
            json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1, "rank_pattern": {"(": 3}}),
            "not a valid regular expr",
        ),
        (json.dumps({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}), "= pissa_nit"),
    ],
)
def test_refused_settings_of_peft(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    names = {"lora_A.weight": rand(2, 8), "lora_B.weight": rand(12, 2)}
    written(tmp_path / "adapter_model.safetensors", {f"base_model.model.{PATH}.{n}": t for n, t in names.items()})
    with pytest.raises(AdapterFileError, match=message):
        read_adapter(tmp_path)


def test_rank_above_what_there_can_be_is_reduced(tmp_path: Path) -> None:
    tensors = {"lora_up.weight": rand(12, 20), "lora_down.weight": rand(20, 8), "alpha": torch.tensor(5.0)}
    path = written(tmp_path / "a.safetensors", {f"{KOHYA}.{name}": tensor for name, tensor in tensors.items()})
    file = read_adapter(path).file
    assert file.config.rank == 8
    expected = 5 / 20 * tensors["lora_up.weight"] @ tensors["lora_down.weight"]
    torch.testing.assert_close(delta(file), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "whole lokr", "lokr of other sizes", "dora"])
def test_a_negative_alpha_turns_the_change_around(kind: str, tmp_path: Path) -> None:
    """As kohya, ComfyUI and LyCORIS scale by it."""
    tensors, weight = KOHYA_LAYERS[kind](), rand(12, 8, seed=9)
    negative = {**tensors, "alpha": -tensors["alpha"]}
    path = written(tmp_path / "a.safetensors", {f"{KOHYA}.{name}": tensor for name, tensor in negative.items()})
    expected = lycoris_change(tensors if kind == "whole lokr" else negative, weight)
    torch.testing.assert_close(delta(read_adapter(path).file, weight), expected, rtol=1e-4, atol=1e-5)


def test_a_file_that_mixes_methods_is_read_as_the_lora_that_it_is(tmp_path: Path) -> None:
    kinds = {"to_q": "lora", "to_k": "loha", "to_v": "whole lokr", "to_out_0": "lokr"}
    tensors = {KOHYA.replace("to_q", name): KOHYA_LAYERS[kind]() for name, kind in kinds.items()}
    tensors["lora_unet_conv_in"] = {"diff": rand(12, 4, 3, 3)}
    flat = {f"{name}.{key}": tensor for name, own in tensors.items() for key, tensor in own.items()}
    imported = read_adapter(written(tmp_path / "a.safetensors", flat))
    assert imported.file.method == "lora"
    assert "it mixes methods (lokr in 2 layers" in imported.remarks[0]
    adapters = imported.file.adapters()
    for name, kind in kinds.items():
        path, weight = PATH.replace("to_q", name.replace("_0", ".0")), torch.zeros(12, 8)
        expected = lycoris_change(KOHYA_LAYERS[kind](), weight)
        torch.testing.assert_close(adapters[path].delta_weight(weight), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(adapters["conv_in"].delta_weight(torch.zeros(12, 36)), rand(12, 4, 3, 3).flatten(1))
    assert imported.file.layers["conv_in"].kernel == (3, 3)


def test_a_tensor_file_beside_the_settings_of_peft_has_its_alpha(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    tensors = {
        f"base_model.model.{PATH}.lora_A.weight": rand(2, 8),
        f"base_model.model.{PATH}.lora_B.weight": rand(12, 2),
    }
    imported = read_adapter(written(tmp_path / "adapter_model.safetensors", tensors))
    assert (imported.file.config.scale, imported.remarks) == (3, ())
