"""Adapter files as other tools write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.bounded import Outcome
from tests.cases.case import Case, either, inspect, reads, says

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
ORIGINAL = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
"""The same layer of SDXL, as diffusers and as the original names it."""
TEXT = "encoder.layers.3.self_attn.q_proj"
OURS = f"text_encoder.{TEXT}"
KOHYA = ("lora_up.weight", "lora_down.weight")
PEFT = ("lora_B.weight", "lora_A.weight")
DIFFUSERS = ("lora.up.weight", "lora.down.weight")
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
KEY_PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"

Tensors = Mapping[str, Tensor]


def factors(name: str, ends: tuple[str, str] = KOHYA, rows: int = 640, columns: int = 640) -> dict[str, Tensor]:
    """A LoRA of rank 4 for one layer, the same numbers for every name."""
    generator = torch.Generator().manual_seed(rows * columns)
    up, down = (torch.randn(shape, generator=generator) / 10 for shape in ((rows, 4), (4, columns)))
    return {f"{name}.{ends[0]}": up, f"{name}.{ends[1]}": down}


def norm(rows: int = 640, columns: int = 640) -> float:
    """Of the change that those make."""
    up, down = factors("x", rows=rows, columns=columns).values()
    return float((up @ down).norm())


def _file(tensors: Tensors, metadata: dict[str, str] | None = None) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "a.safetensors", metadata)
        return inspect(folder / "a.safetensors")

    return make


def _changes(found: dict[str, Any], *expected: str, shape: tuple[int, int] = (640, 640)) -> bool:
    """Those layers and no others, each with the norm of its factors."""
    norms = {layer["path"]: (tuple(layer["shape"]), layer["norm"]) for layer in found["changes"]}
    wanted = norm(*shape)
    return norms.keys() == set(expected) and all(
        it == (shape, it[1]) and abs(it[1] - wanted) < 1e-3 * wanted for it in norms.values()
    )


def _dialect(name: str, layer: str, ends: tuple[str, str], expected: str = LAYER) -> Case:
    return Case(
        f"names of {name}",
        f"the change of {expected}",
        _file(factors(layer, ends)),
        reads(lambda found: _changes(found, expected)),
    )


DIALECTS = [
    _dialect("kohya, original", "lora_unet_" + ORIGINAL.replace(".", "_"), KOHYA),
    _dialect("kohya, diffusers", "lora_unet_" + LAYER.replace(".", "_"), KOHYA),
    _dialect("kohya with dots", f"lora_unet.{LAYER}", KOHYA),
    _dialect("LyCORIS", "lycoris_" + LAYER.replace(".", "_"), KOHYA),
    _dialect("diffusers, original", f"unet.{ORIGINAL}", KOHYA),
    _dialect("diffusers", f"unet.{LAYER}", DIFFUSERS),
    _dialect("diffusers, doubled", f"unet.unet.{LAYER}", PEFT),
    _dialect("ComfyUI", f"diffusion_model.{ORIGINAL}", KOHYA),
    _dialect("a checkpoint", f"model.diffusion_model.{ORIGINAL}", KOHYA),
    _dialect("PEFT", f"base_model.model.{LAYER}", PEFT),
    _dialect("a compiled UNet", f"_orig_mod.{LAYER}", PEFT),
    _dialect("a wrapped UNet", f"module.{LAYER}", PEFT),
    _dialect("PEFT, compiled and wrapped", f"base_model.model.module._orig_mod.{LAYER}", PEFT),
    _dialect("an adapter default", f"unet.{LAYER}", ("lora_B.default.weight", "lora_A.default.weight")),
    _dialect("an adapter default_0", f"unet.{LAYER}", ("lora_B.default_0.weight", "lora_A.default_0.weight")),
    _dialect("an adapter of any name", f"unet.{LAYER}", ("lora_B.my dog.weight", "lora_A.my dog.weight")),
    _dialect("ComfyUI's text encoder", f"text_encoders.clip_l.transformer.text_model.{TEXT}", KOHYA, OURS),
    _dialect("clip_l", f"clip_l.text_model.{TEXT}", KOHYA, OURS),
    _dialect("clip_g", f"clip_g.transformer.text_model.{TEXT}", KOHYA, f"text_encoder_2.{TEXT}"),
    _dialect("lora_te1 with dots", f"lora_te1.text_model.{TEXT}", KOHYA, OURS),
]

_PLAIN = factors(KEY, rows=320, columns=768) | {f"{KEY}.alpha": torch.tensor(4.0)}
_NORM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_norm1"


def _beside(name: str, expected: str, more: Tensors, *words: str) -> Case:
    """A plain LoRA is read whatever stands beside it, and what was left out is counted."""

    def right(found: dict[str, Any]) -> bool:
        told = " ".join(found["remarks"])
        return _changes(found, KEY_PATH, shape=(320, 768)) and all(word in told for word in words)

    return Case(f"{name} beside a LoRA", expected, _file(_PLAIN | dict(more)), reads(right))


def _bundled(found: dict[str, Any]) -> bool:
    """The words' vectors are read, or a remark says that they are not."""
    return _changes(found, KEY_PATH, shape=(320, 768)) and (
        found["embeddings"] == {"text_encoder": [2, 768]} or "embedding" in " ".join(found["remarks"])
    )


_EMBEDDING = {"bundle_emb.sks.string_to_param.*": torch.ones(2, 768)}
BESIDE = [
    _beside("nothing", "read, without a remark", {}),
    _beside(
        "norms",
        "read, 2 tensors left out",
        {f"{_NORM}.w_norm": torch.ones(320), f"{_NORM}.b_norm": torch.ones(320)},
        "2",
    ),
    _beside("a bias", "read, 1 tensor left out", {KEY.replace("to_k", "to_out_0") + ".diff_b": torch.ones(320)}, "1"),
    Case(
        "an embedding beside a LoRA", "read, the embedding too or a remark", _file(_PLAIN | _EMBEDDING), reads(_bundled)
    ),
]

_PROJECTION = "lora_unet_down_blocks_0_attentions_0_proj_in"
_CONVOLUTION = "lora_unet_down_blocks_0_resnets_0_conv1"


def _kernel(name: str, rows: int, columns: int, size: int) -> dict[str, Tensor]:
    """Factors of a convolution: the first has the kernel, the second is 1x1."""
    up, down = factors(name, rows=rows, columns=columns * size * size).items()
    return {up[0]: up[1][:, :, None, None], down[0]: down[1].view(4, columns, size, size)}


def _of_one(path: str, *shape: int) -> Callable[[Outcome, Path], bool]:
    return reads(lambda found: _changes(found, path, shape=shape))  # pyright: ignore[reportArgumentType]


CONVOLUTIONS = [
    Case(
        "a projection as a matrix",
        "its change",
        _file(factors(_PROJECTION, rows=320, columns=320)),
        _of_one("down_blocks.0.attentions.0.proj_in", 320, 320),
    ),
    Case(
        "a projection as a 1x1 kernel",
        "the same change",
        _file(_kernel(_PROJECTION, 320, 320, 1)),
        _of_one("down_blocks.0.attentions.0.proj_in", 320, 320),
    ),
    Case(
        "a 3x3 kernel",
        "the change of the convolution",
        _file(_kernel(_CONVOLUTION, 320, 320, 3)),
        _of_one("down_blocks.0.resnets.0.conv1", 320, 2880),
    ),
]

_MIDDLE = "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
_UNBALANCED = {
    "lokr_w1": torch.ones(16, 4),
    "lokr_w2_a": torch.ones(4, 4),
    "lokr_w2_b": torch.ones(4, 16),
    "alpha": torch.tensor(2.0),
}


def _method(name: str, *words: str, **tensors: Tensor) -> Case:
    """A method that cannot be read is named in the refusal."""
    named = {f"{_MIDDLE}.{key.replace('__', '.')}": tensor for key, tensor in tensors.items()}
    return Case(f"a file of {name}", "refused, the method named", _file(named), says(*words))


METHODS = [
    Case(
        "LoKr whose factors no factor gives",
        "read: 64x64",
        _file({f"{_MIDDLE}.{key}": tensor for key, tensor in _UNBALANCED.items()}),
        # of ones, w2 = 4 and the scale 2/4: each of the 64 x 64 numbers is 2
        reads(lambda found: [(it["shape"], round(it["norm"], 3)) for it in found["changes"]] == [([64, 64], 128.0)]),
    ),
    Case(
        "a whole matrix (.diff)",
        "read as full",
        _file({f"{_MIDDLE}.diff": torch.ones(64, 64)}),
        reads(lambda found: found["method"] == "full" and round(found["changes"][0]["norm"], 3) == 64),
    ),
    _method("OFT", "OFT", oft_blocks=torch.ones(4, 16, 16)),
    _method("GLoRA", "GLoRA", **{f"{side}{n}__weight": torch.ones(64, 4) for side in "ab" for n in "12"}),
    _method("IA3", "IA3", weight=torch.ones(64), on_input=torch.tensor(False)),
]


def _other(model: str, layer: str, *words: str) -> Case:
    return Case(f"a LoRA of {model}", "refused, the model named", _file(factors(layer, PEFT, 64, 64)), says(*words))


OTHERS = [
    _other("Flux", "transformer.single_transformer_blocks.0.attn.to_q", "Flux"),
    _other("a language model", "base_model.model.model.layers.0.self_attn.q_proj", "LLM"),
    _other("nothing known", "unet.some.layer.of.mine", "layer"),
]


def _pickled(folder: Path) -> list[str]:
    place = folder / "peft"
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    torch.save({}, place / "adapter_model.bin")
    return inspect(place)


def _named_within(folder: Path) -> list[str]:
    place = folder / "saved" / "my dog"
    place.mkdir(parents=True)
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    save_file(factors(f"base_model.model.{LAYER}", PEFT), place / "adapter_model.safetensors")
    return inspect(folder / "saved")


def _pointer(folder: Path) -> list[str]:
    path = folder / "a.safetensors"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1000\n")
    return inspect(path)


PLACES = [
    Case("a pickle of PEFT", "refused as a pickle", _pickled, says("pickle")),
    Case(
        "a folder with a named adapter inside",
        "read, or told where it is",
        _named_within,
        either(reads(lambda found: _changes(found, LAYER)), says("my dog")),
    ),
    Case("a pointer of git-lfs", "the true cause", _pointer, says("git", "lfs")),
    Case(
        "a negative alpha",
        "read with its sign, or refused for it",
        _file(_PLAIN | {f"{KEY}.alpha": torch.tensor(-4.0)}),
        either(reads(lambda found: _changes(found, KEY_PATH, shape=(320, 768))), says("alpha")),
    ),
]

CASES = [*DIALECTS, *BESIDE, *CONVOLUTIONS, *METHODS, *OTHERS, *PLACES]
