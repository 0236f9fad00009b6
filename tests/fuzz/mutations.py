"""Damage to adapter files: of their bytes, their headers, their tensors and what their metadata say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 0.5, -0.0, 1e308, float("nan"), float("inf"), 10**9, 2**63, 10**18, 10**400),
    *("", " ", "unet", "lora", "1e5", "../../etc/passwd", "/dev/zero", "a\x00b", "\x1b[31mX\x07", "\ud800", "\u202e"),
    *("([a-z_.0-9]+)+!", "(a|aa)+$", ".*" * 30, "a" * 5000, "\n" * 50, "\N{ROBOT FACE}"),
    *([], {}, [[[[[]]]]], {"a": {"b": [1]}}, [1, "a", None], [10**12, 10**12]),
]
"""Values where others are expected."""
TYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I8", "U8", "BOOL", "X32", ""]
STARTS = [
    *("unet.", "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_", "diffusion_model.", "clip_l."),
    *("model.diffusion_model.", "text_encoder.", "text_encoder_2.", "base_model.model.", "_orig_mod.", "module."),
    *("lora_unet.", "text_encoders.clip_l.transformer.", "transformer.", "", "bundle_emb.", "\x1b[2J", "embedding."),
]
ENDS = [
    *(".alpha", ".lora_up.weight", ".lora_down.weight", ".lora_mid.weight", ".lora_A.weight", ".lora_B.weight"),
    *(".lora_A.default_0.weight", ".lora_B.default_0.weight", ".hada_w1_a", ".hada_w2_b", ".hada_t1", ".lokr_w1"),
    *(".lokr_w2", ".lokr_w1_a", ".lokr_w2_b", ".lokr_t2", ".dora_scale", ".lora_magnitude_vector", ".diff", ".diff_b"),
    *(".w_norm", ".b_norm", ".oft_blocks", ".a1.weight", ".weight", ".up", ".down", ".magnitude", ".rank", ""),
]


def mutated(source: Path, target: Path, random: Random) -> None:
    """Write to `target` a copy of the file or folder `source` with one to four damages."""
    if not source.is_dir():
        target.write_bytes(_damaged(source.read_bytes(), random))
        return
    shutil.copytree(source, target)
    if random.random() < 0.5:
        tensors = target / "adapter_model.safetensors"
        tensors.write_bytes(_damaged(tensors.read_bytes(), random))
        return
    config = target / "adapter_config.json"
    for _ in range(random.randint(1, 3)):
        text = config.read_bytes().decode("utf-8", "surrogatepass")
        config.write_text(_changed_text(text, random), encoding="utf-8", errors="surrogatepass")


@dataclass
class Entry:
    """A tensor in a file."""

    dtype: Any
    shape: list[Any]
    content: bytes

    def fill(self) -> None:
        """Give it as many bytes as type and shape ask for, if that is not too much."""
        size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(self.dtype, 1)
        for length in self.shape:
            size *= length if isinstance(length, int) else 1
        if 0 <= size <= 1 << 19:
            self.content = (self.content * (size // max(1, len(self.content)) + 1))[:size].ljust(size, b"\0")


Entries = dict[str, Entry]


def _damaged(content: bytes, random: Random) -> bytes:
    if random.random() < 0.12:
        return random.choice(_BYTES)(content, random)
    start = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:start]), content[start:]
    metadata = header.pop("__metadata__", {})
    entries = {
        name: Entry(value["dtype"], value["shape"], body[slice(*value["data_offsets"])])
        for name, value in header.items()
    }
    for _ in range(random.randint(1, 4)):
        if random.random() < 0.35 or not entries:
            metadata = _changed_metadata(metadata, random)
        else:
            random.choice(_ENTRY)(random.choice(sorted(entries)), entries, random)
    return _written(entries, metadata, random)


def _written(entries: Entries, metadata: Any, random: Random) -> bytes:
    """The file. One in eight has wrong places of tensors, one in ten of ours a wrong checksum."""
    header, body = {}, b""
    for name, entry in entries.items():
        place = [len(body), len(body) + len(entry.content)]
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": place}
        body += entry.content
    if header and random.random() < 0.06:
        entry = header[random.choice(sorted(header))]
        entry["data_offsets"] = _moved(entry["data_offsets"], random)
        if random.random() < 0.3:
            entry[random.choice(["dtype", "shape", "data_offsets", "more"])] = random.choice(ODD)
    if isinstance(metadata, dict) and random.random() < 0.9:
        metadata = {**metadata, "modelspec.hash_sha256": "0x" + hashlib.sha256(body).hexdigest()}
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    return len(text).to_bytes(8, "little") + text + body


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randint(1, 8)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


_BYTES: list[Callable[[bytes, Random], bytes]] = [
    _flip,
    lambda b, r: b[: r.randrange(len(b))],
    lambda b, r: b + r.randbytes(r.randint(1, 100)),
    lambda b, r: r.randbytes(8) + b[8:],
    lambda b, r: (int.from_bytes(b[:8], "little") + r.randint(-20, 20)).to_bytes(8, "little") + b[8:],
    lambda b, r: (100000).to_bytes(8, "little") + b'{"__metadata__":' + b"[" * 99984 + b[8:],
    lambda b, r: r.randbytes(r.randint(0, 300)),
    lambda b, r: b.replace(b'"F32"', b'"F16"', r.randint(1, 3)),
    lambda b, r: b.replace(b":[", b":[-", r.randint(1, 3)),
]


def _moved(place: list[int], random: Random) -> Any:
    begin, end = place
    odd = [random.choice(ODD), random.choice(ODD)]
    near = [[end, begin], [0, end], [begin, 10**18], [-8, 0], [begin + 1, end + 1], [begin, begin]]
    return random.choice([*near, odd, random.choice(ODD)])


def _rename(name: str, entries: Entries, random: Random) -> None:
    layer, dot, end = name.partition(".lora") if ".lora" in name else name.rpartition(".")
    pieces = layer.split(".") if "." in layer else layer.split("_")
    new = random.choice(
        [
            random.choice(STARTS) + name,
            random.choice(STARTS) + name.partition(".")[2],
            layer + random.choice(ENDS),
            "_".join(pieces) + dot + end,
            ".".join(pieces[random.randrange(len(pieces)) :]) + dot + end,
            layer + random.choice(["\x1b[31m", "\n", ".", " ", "\u00e9", "x" * 3000]) + dot + end,
            name.replace("0", str(random.choice([1, 9, 10**30]))),
        ]
    )
    entries[new] = entries.pop(name)


def _rename_all(name: str, entries: Entries, random: Random) -> None:
    """Another beginning for all names, as another tool has."""
    old, new = random.choice([name.partition(".")[0], name.partition("_")[0] + "_", ""]), random.choice(STARTS)
    for each in [each for each in entries if each.startswith(old)]:
        entries[new + each.removeprefix(old)] = entries.pop(each)


def _end_all(name: str, entries: Entries, random: Random) -> None:
    """Another ending for all names that end alike: another method's, or a tensor of another kind."""
    old, new = "." + name.rpartition(".")[2], random.choice(ENDS)
    for each in [each for each in entries if each.endswith(old)]:
        entries[each.removesuffix(old) + new] = entries.pop(each)


def _copy(name: str, entries: Entries, random: Random) -> None:
    before = replace(entries[name], shape=list(entries[name].shape))
    _rename(name, entries, random)
    entries[name] = before


def _reshape(name: str, entries: Entries, random: Random) -> None:
    """Another shape, most of the time with as many bytes as it takes."""
    entry = entries[name]
    shape = entry.shape
    for _ in range(random.randint(1, 2)):
        match random.randrange(5):
            case 0 if shape:
                shape[random.randrange(len(shape))] = random.choice([0, 1, 2, 3, 7, 300, 4096, -1, 10**12, 10**30])
            case 1:
                shape.insert(random.randint(0, len(shape)), random.choice([1, 1, 2, 3]))
            case 2:
                shape.reverse()
            case 3 if shape:
                del shape[random.randrange(len(shape))]
            case _:
                shape[:] = random.choice([[], [1], [0], [1, 1, 1, 1], [300, 300], [2, 2, 2]])
    if random.random() < 0.9:
        entry.fill()


def _swell(name: str, entries: Entries, random: Random) -> None:
    """The layer's matrices made so large that what they make together cannot be held."""
    layer = name.partition(".lora")[0] if ".lora" in name else name.rpartition(".")[0]
    for each, entry in entries.items():
        if each.startswith(layer) and len(entry.shape) > 1:
            entry.shape[entry.shape.index(max(entry.shape))] = random.choice([300, 3000, 30000])
            entry.fill()


def _retype(name: str, entries: Entries, random: Random) -> None:
    entries[name].dtype = random.choice(TYPES)
    if random.random() < 0.9:
        entries[name].fill()


def _overwrite(name: str, entries: Entries, random: Random) -> None:
    """Other numbers: NaN, infinity, the largest, subnormal, all alike, or any."""
    entry = entries[name]
    length = len(entry.content)
    patterns = [b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00", b"\x00", b"\x00<"]
    pattern = random.choice([*patterns, random.randbytes(max(1, length))])
    part = length if random.random() < 0.5 else min(length, 4)
    entry.content = (pattern * (part // len(pattern) + 1))[:part] + entry.content[part:]


def _remove(name: str, entries: Entries, random: Random) -> None:
    del entries[name]


_ENTRY: list[Callable[[str, Entries, Random], None]] = [
    *(_rename, _rename, _rename_all, _end_all, _copy, _reshape, _reshape, _swell, _retype, _overwrite, _overwrite),
    _remove,
]


def _changed_metadata(metadata: Any, random: Random) -> Any:
    """Delta what an entry says, or the JSON in it, or what kind of thing it is."""
    if not isinstance(metadata, dict) or not metadata or random.random() < 0.02:
        return random.choice(ODD)
    metadata = dict(metadata)
    key = random.choice(sorted(metadata))
    match random.randrange(8):
        case 0:
            del metadata[key]
        case 1:
            metadata[key] = random.choice(ODD) if random.random() < 0.2 else str(random.choice(ODD))
        case 2:
            metadata[key] = json.dumps(random.choice(ODD))
        case 3:
            metadata[str(random.choice(ODD))] = "x"
        case _:
            rich = sorted(k for k, v in metadata.items() if isinstance(v, str) and v.startswith(("{", "[")))
            key = random.choice(rich) if rich else key
            if isinstance(metadata[key], str):
                metadata[key] = _changed_text(metadata[key], random)
    return metadata


def _changed_text(text: str, random: Random) -> str:
    """A JSON text with another value somewhere, or broken."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # it is broken already
        return text[: random.randint(0, len(text))] + str(random.choice(ODD))
    if random.random() < 0.1:
        place = random.randint(0, len(text))
        return text[:place] + random.choice(["}", "[" * 5000, '"', "\x00", "1" * 5000, ",", "NaN"]) + text[place:]
    return json.dumps(_changed(value, random))


def _changed(value: Any, random: Random) -> Any:
    """The same with an odd value at a random place."""
    if not value or not isinstance(value, dict | list) or random.random() < 0.1:
        return random.choice(ODD)
    if isinstance(value, list):
        copy, index = list(value), random.randrange(len(value))
        copy[index] = _changed(copy[index], random)
        return copy if random.random() < 0.8 else copy * 2
    copy, key = dict(value), random.choice(sorted(value))
    match random.randrange(6):
        case 0:
            del copy[key]
        case 1:
            copy[str(random.choice(ODD))] = copy.pop(key)
        case 2:
            copy[str(random.choice(ODD))] = random.choice(ODD)
        case _:
            copy[key] = _changed(copy[key], random)
    return copy
