"""Files that are made to do harm, or to look as if."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

from tests.bounded import Outcome
from tests.cases.case import Case, check, inspect, picture, raw, says, zeros

_PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
_KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
_FACTORS = {f"unet.{_PATH}.lora_A.weight": zeros(2, 8), f"unet.{_PATH}.lora_B.weight": zeros(8, 2)}


def _options(text: str) -> Callable[[Path], list[str]]:
    """A LoRA of diffusers whose metadata hold these options of PEFT."""
    return lambda folder: inspect(raw(folder / "a.safetensors", _FACTORS, {"lora_adapter_metadata": text}))


def _slow_pattern(pattern: str) -> Callable[[Path], list[str]]:
    return _options(json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.rank_pattern": {pattern: 4}}))


def _kron(folder: Path) -> list[str]:
    names = (f"{_KEY}.lokr_w1", f"{_KEY}.lokr_w2")
    return inspect(raw(folder / "a.safetensors", {name: zeros(300, 300) for name in names}, {}))


def _loha(folder: Path) -> list[str]:
    shapes = {"hada_w1_a": (60000, 2), "hada_w1_b": (2, 60000), "hada_w2_a": (60000, 2), "hada_w2_b": (2, 60000)}
    return inspect(raw(folder / "a.safetensors", {f"{_KEY}.{name}": zeros(*it) for name, it in shapes.items()}, {}))


def _lora(folder: Path, name: str, down: tuple[str, list[int], bytes], up: tuple[str, list[int], bytes]) -> list[str]:
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return inspect(raw(folder / "a.safetensors", tensors, {}))


def _nan(folder: Path) -> list[str]:
    down = ("F32", [64, 8], struct.pack("<f", float("nan")) * 512)
    return inspect(
        raw(folder / "a.safetensors", {f"{_KEY}.lora_down.weight": down, f"{_KEY}.lora_up.weight": zeros(8, 64)}, {})
    )


def _escape(folder: Path) -> list[str]:
    name = "\x1b]0;title\x07\x1b[31mred"
    return inspect(
        raw(
            folder / "a.safetensors",
            {f"{name}.lora_down.weight": zeros(2, 8), f"{name}.lora_up.weight": zeros(8, 2)},
            {},
        )
    )


def _recipe(text: str, pictures: bool = True) -> Callable[[Path], list[str]]:
    """A recipe; pictures: whether the command names them."""

    def make(folder: Path) -> list[str]:
        picture(folder / "0.png", 0)
        (folder / "recipe.yaml").write_text(text)
        images = [str(folder)] if pictures else []
        return ["train", *images, "--class", "dog", "--config", str(folder / "recipe.yaml"), "--dry-run"]

    return make


def _bomb() -> str:
    """Nine lists of nine lists of nine ... : 43 million words."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
    return "\n".join([*lines, "lr: *h", ""])


def _special(make: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """A picture with something for its mask that is no regular file."""

    def made(folder: Path) -> list[str]:
        picture(folder / "0.png", 0)
        make(folder / "0.mask.png")
        return check(folder)

    return made


def _not_waited_for(outcome: Outcome, folder: Path) -> bool:
    """Refused, or left out with a word."""
    return outcome.code in (0, 2) and "0.mask.png" in outcome.out + outcome.err


def _refused(outcome: Outcome, folder: Path) -> bool:
    return outcome.code == 2


def _bounded(outcome: Outcome, folder: Path) -> bool:
    """Done or refused; that it kept within time and memory is seen before."""
    return outcome.code in (0, 2)


_TIME, _MEMORY, _ERROR = "done or refused in bounded time", "done or refused in bounded memory", "one short error"
_AT_ONCE = "refused or left out, at once"


def _alpha(digits: int) -> Callable[[Path], list[str]]:
    return _options('{"unet.r": 3, "unet.lora_alpha": 1' + "0" * digits + "}")


CASES = [
    Case("a pattern that backtracks for ever", _TIME, _slow_pattern("([a-z_.0-9]+)+!"), _bounded),
    Case("another, of alternatives", _TIME, _slow_pattern("(a|a.|[a-z.]*)*$x"), _bounded),
    Case("an alpha of 400 digits", _ERROR, _alpha(400), says("alpha")),
    Case("an alpha of 5,000 digits", _ERROR, _alpha(5000), _refused),
    Case("a Kronecker product of 32 GB", _MEMORY, _kron, _bounded),
    Case("a LoHa of 14 GB", _MEMORY, _loha, _bounded),
    Case("NaN, of a rank above the layer's", _ERROR, _nan, _refused),
    Case("control characters in a name", f"{_ERROR}, printed inert", _escape, _refused),
    Case("YAML of 43 million words", _ERROR, _recipe(_bomb()), _refused),
    Case("YAML with no such date", "text, or one short error", _recipe("token: 2024-13-45\n"), _bounded),
    Case("YAML with no such date for a number", _ERROR, _recipe("steps: 2024-13-45\n"), says("steps")),
    Case("YAML with no whole number", _ERROR, _recipe("steps: !!int foo\n"), _refused),
    Case("YAML with a NUL", _ERROR, _recipe('images: "a\\0b"\n', pictures=False), _refused),
    Case("YAML 3,000 lists deep", _ERROR, _recipe("a: " + "[" * 3000 + "]" * 3000 + "\n"), _refused),
    Case("YAML with 5,000 digits", _ERROR, _recipe("steps: " + "9" * 5000 + "\n"), _refused),
    Case("a pipe for a mask", _AT_ONCE, _special(os.mkfifo), _not_waited_for),
    Case("an endless device for a mask", _AT_ONCE, _special(lambda it: it.symlink_to("/dev/zero")), _not_waited_for),
]
