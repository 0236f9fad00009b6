"""What ComfyUI and sd-scripts make of the files: a reader of its own by what they document, not their code.

Both take names of layers from the model and look for the tensors; what is under no such name is left out. The change
is alpha/rank times the product of the factors, flattened behind the first size, in the shape of the weight; alpha/rank
is 1 where there is no alpha. Of LoKr it acts only where a matrix is a product.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats import limits, plain_lora, to_diffusers, to_kohya
from dreamtune.adapters.methods.decompose import Decomposable
from dreamtune.errors import ConfigError
from tests.adapters.foreign import file_on, whole_ranks

BLOCK = "down_blocks.1.attentions.0"
INNER = f"{BLOCK}.transformer_blocks.0"
SD1 = {
    f"{INNER}.attn2.to_k": (6, 768),
    f"{INNER}.attn1.to_out.0": (6, 8),
    f"{INNER}.ff.net.0.proj": (12, 6),
    f"{BLOCK}.proj_in": (6, 8, 1, 1),
    "down_blocks.1.resnets.0.conv1": (6, 4, 3, 3),
    "down_blocks.1.resnets.0.conv_shortcut": (6, 4, 1, 1),
    "down_blocks.1.resnets.0.time_emb_proj": (6, 8),
    "text_encoder.encoder.layers.0.self_attn.q_proj": (6, 8),
    "text_encoder.encoder.layers.0.mlp.fc1": (12, 6),
}
WEIGHTS = {
    path: torch.randn(shape, generator=torch.Generator().manual_seed(number))
    for number, (path, shape) in enumerate(SD1.items())
}


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "rslora": ("lora", {"rslora": True}),
    "loha": ("loha", {}),
    "rank-stabilised loha": ("loha", {"rslora": True}),
    "lokr": ("lokr", {"rank": 1, "factor": 2}),
    "whole lokr": ("lokr", {"factor": 2, "ranks": whole_ranks(WEIGHTS, 2)}),
    "lokr of factors": ("lokr", {"rank": 1, "factor": 4, "decompose_both": True}),
    "full": ("full", {}),
}


def kohya_key(path: str) -> str:
    start, inner = ("te_text_model", path[len("text_encoder.") :]) if path.startswith("text_") else ("unet", path)
    return f"lora_{start}_{inner.replace('.', '_')}"


def diffusers_key(path: str) -> str:
    """As ComfyUI names layers of diffusers' files."""
    if path.startswith("text_encoder."):
        return path.replace("text_encoder.", "text_encoder.text_model.")
    return f"unet.{re.sub(r'to_out.0$', 'to_out', path).replace('.to_', '.processor.to_')}"


def product(tensors: dict[str, Tensor], *pairs: tuple[str, str]) -> Tensor | None:
    for up, down in pairs:
        if up in tensors:
            return tensors.pop(up).flatten(1) @ tensors.pop(down).flatten(1)
    return None


def change_of(tensors: dict[str, Tensor], key: str, shape: torch.Size) -> Tensor:
    """Takes what it uses out of `tensors`."""
    alpha = tensors.pop(f"{key}.alpha", None)
    rank = next((t.shape[0] for name, t in tensors.items() if name.startswith(key) and _is_down(name)), None)
    scale = 1.0 if alpha is None or rank is None else float(alpha) / rank
    lora = product(
        tensors,
        (f"{key}.lora_up.weight", f"{key}.lora_down.weight"),
        (f"{key}_lora.up.weight", f"{key}_lora.down.weight"),
        (f"{key}.lora_B.weight", f"{key}.lora_A.weight"),
        (f"{key}.lora.up.weight", f"{key}.lora.down.weight"),
    )
    if lora is not None:
        return scale * lora.reshape(shape)
    first = product(tensors, (f"{key}.hada_w1_a", f"{key}.hada_w1_b"))
    if first is not None:
        second = product(tensors, (f"{key}.hada_w2_a", f"{key}.hada_w2_b"))
        assert second is not None
        return scale * (first * second).reshape(shape)
    if f"{key}.diff" in tensors:
        diff = tensors.pop(f"{key}.diff")
        assert diff.shape == shape
        return diff
    w1, w2 = (tensors.pop(f"{key}.lokr_w{n}", None) for n in "12")
    w1 = product(tensors, (f"{key}.lokr_w1_a", f"{key}.lokr_w1_b")) if w1 is None else w1
    w2 = product(tensors, (f"{key}.lokr_w2_a", f"{key}.lokr_w2_b")) if w2 is None else w2
    assert w1 is not None
    assert w2 is not None
    return scale * torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2.contiguous()).reshape(shape)


def _is_down(name: str) -> bool:
    return name.endswith(("down.weight", "lora_A.weight", "_b"))


def check(tensors: dict[str, Tensor], key: Callable[[str], str], file: AdapterFile) -> None:
    tensors = dict(tensors)
    for path, adapter in file.adapters().items():
        weight = WEIGHTS[path]
        expected = adapter.delta_weight(weight.flatten(1)).detach().reshape(weight.shape)
        found = change_of(tensors, key(path), weight.shape)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=path)
    assert not tensors, "left out"


@pytest.mark.parametrize("kind", KINDS)
def test_comfy_uses_all_of_a_file_of_kohya(kind: str) -> None:
    method, options = KINDS[kind]
    file = file_on(method, WEIGHTS, **options)
    tensors, _ = to_kohya(file, torch.float32)
    check(tensors, kohya_key, file)


@pytest.mark.parametrize("method", ["lora", "orthogonal", "lora-dash", "spectral-a", "spectral-r"])
@pytest.mark.parametrize("form", ["lora", "kohya"])
def test_what_has_factors_is_exact_as_lora(method: str, form: str) -> None:
    file = file_on(method, WEIGHTS)
    plain = plain_lora(file)
    assert set(plain.energy.values()) == {1.0}
    write, key = (to_kohya, kohya_key) if form == "kohya" else (to_diffusers, diffusers_key)
    tensors, _ = write(plain.file, torch.float32)
    check(tensors, key, file)


@pytest.mark.parametrize("rslora", [False, True])
def test_comfy_uses_all_of_a_file_of_diffusers(rslora: bool) -> None:
    """It has no alpha: the scale is in the factors."""
    file = file_on("lora", WEIGHTS, rslora=rslora)
    tensors, _ = to_diffusers(file, torch.float32)
    check(tensors, diffusers_key, file)


def test_shapes_of_convolutions() -> None:
    """Those that sd-scripts, LyCORIS and PEFT load into their own layers, which have to fit."""
    lora, _ = to_kohya(file_on("lora", WEIGHTS), torch.float32)
    conv, proj = "lora_unet_down_blocks_1_resnets_0_conv1", "lora_unet_down_blocks_1_attentions_0_proj_in"
    assert lora[f"{conv}.lora_down.weight"].shape == (2, 4, 3, 3)
    assert lora[f"{conv}.lora_up.weight"].shape == (6, 2, 1, 1)
    assert lora[f"{proj}.lora_down.weight"].shape == (2, 8, 1, 1)
    dora, _ = to_kohya(file_on("dora", WEIGHTS), torch.float32)
    assert dora[f"{conv}.dora_scale"].shape == (6, 1, 1, 1)
    assert dora["lora_te_text_model_encoder_layers_0_mlp_fc1.dora_scale"].shape == (12, 1)
    lokr, _ = to_kohya(file_on("lokr", WEIGHTS, factor=2, ranks=whole_ranks(WEIGHTS, 2)), torch.float32)
    assert lokr[f"{conv}.lokr_w2"].shape == (3, 2, 3, 3)


@pytest.mark.parametrize(("width", "convolves"), [(768, True), (1024, False), (2048, False)])
@pytest.mark.parametrize("given", [True, False])
def test_projections_are_what_the_family_has(width: int, convolves: bool, given: bool) -> None:
    """Whatever the file of another tool took them for."""
    proj = f"{BLOCK}.proj_out"
    weights = {f"{INNER}.attn2.to_k": torch.ones(4, width), proj: torch.ones(4, 4, *([1, 1] if given else []))}
    tensors, _ = to_kohya(file_on("lora", weights), torch.float32)
    (down,) = [t for name, t in tensors.items() if "proj_out.lora_down" in name]
    assert down.shape == ((2, 4, 1, 1) if convolves else (2, 4))


def test_magnitudes_of_a_kernels_columns_have_no_place() -> None:
    weights = {path: weight for path, weight in WEIGHTS.items() if not path.endswith("conv1")}
    tensors, _ = to_kohya(file_on("dora", weights, by_input=True), torch.float32)
    assert tensors["lora_unet_down_blocks_1_attentions_0_proj_in.dora_scale"].shape == (1, 8, 1, 1)
    with pytest.raises(ConfigError, match="one magnitude per input, but this adapter has one per kernel element"):
        to_kohya(file_on("dora", WEIGHTS, by_input=True), torch.float32)


@pytest.mark.parametrize("method", ["dora", "loha", "lokr"])
def test_how_far_comfy_is_off_with_magnitudes(method: str) -> None:
    """It has m·(W + D)/‖W‖, the norm of the base's weight."""
    options: dict[str, Any] = {} if method == "dora" else {"weight_decompose": True}
    file = file_on(method, WEIGHTS, **options)
    worst = 0.0
    for path, adapter in file.adapters().items():
        weight = WEIGHTS[path].flatten(1).double()
        assert isinstance(adapter, Decomposable)
        assert adapter.magnitude is not None
        exact = adapter.delta_weight(weight).detach()
        gain = adapter.magnitude.detach() / weight.norm(dim=1)
        theirs = gain[:, None] * (weight + adapter.change().detach()) - weight
        worst = max(worst, float((theirs - exact).norm() / exact.norm()))
    weights = {path: weight.flatten(1) for path, weight in WEIGHTS.items()}
    assert worst > 0.1
    assert limits(file, "kohya", weights)[1] == (
        f"ComfyUI divides magnitudes by the norms of the base's weights, so its result differs, by up to {worst:.1%} "
        "of a layer's change"
    )
    assert limits(file, "kohya")[1].endswith(", so its result differs")


def test_what_other_readers_do_is_said() -> None:
    assert limits(file_on("lora", WEIGHTS), "kohya") == ()
    assert limits(file_on("lora", WEIGHTS), "lora") == ()
    assert "for ComfyUI, use the format kohya" in limits(file_on("dora", WEIGHTS), "peft")[0]
    assert "do not read loha" in limits(file_on("loha", WEIGHTS), "kohya")[0]
    (remark,) = limits(file_on("lora", {**WEIGHTS, "time_embedding.linear_1": torch.ones(4, 5)}), "kohya")
    assert remark == "sd-scripts leaves out 1 layers outside the blocks, first time_embedding.linear_1"
