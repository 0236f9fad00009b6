"""The container of adapter files: safetensors, the same bytes for the same content, with a checksum of the tensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from dreamtune.errors import AdapterFileError, DreamtuneError, first_line
from dreamtune.storage import atomic, open_regular

FORMAT = "1"
"""Version of the format that is written, and the only one that is read."""
_FORMAT_KEY = "dreamtune.format"
_CHECKSUM_KEY = "modelspec.hash_sha256"

_OTHER_TOOLS = {
    "LyCORIS": (".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".oft_diag", ".diff"),
    "kohya": (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"),
    "PEFT": (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"),
    "diffusers": (".lora.up.weight", ".lora.down.weight", "_lora.up.weight", "_lora.down.weight"),
}
"""Endings of tensor names by which the files of other tools are known, without the name that PEFT gives an adapter."""
_LYCORIS_STARTS = ("lora_", "lycoris_", "diffusion_model.")
"""How names begin in files of LyCORIS and ComfyUI."""
_NAMED = re.compile(r"(\.(?:lora_[AB]|lora_magnitude_vector|hada_\w+|lokr_\w+))\.(?!weight$)[^.]+")
_LONGEST_HEADER = 2**25
"""Bytes. Names and sizes take some hundred a tensor, and kohya's metadata of a large data set some MB."""
_NOT_TENSORS = {
    b"PK\x03\x04": "a pickle, which could run code and is never opened: use .safetensors files",
    b"\x80": "a pickle, which could run code and is never opened: use .safetensors files",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: run `git lfs pull`, or download the file",
    b"<!DOCTYPE": "a web page, not an adapter: download the file itself",
    b"<!doctype": "a web page, not an adapter: download the file itself",
    b"<html": "a web page, not an adapter: download the file itself",
    b"GGUF": "a GGUF file: use a .safetensors file",
}
"""How files begin that are mistaken for adapters -> what they are."""
Check = Callable[[Mapping[str, Sequence[int]]], object]
"""Told the shape of each tensor, by its name, before any is read; raises AdapterFileError if they are no adapter's."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `path` completely or not at all, creating its folder if needed. Raises AdapterFileError if that fails."""
    _write(path, to_bytes(tensors, metadata))


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The whole content of such a file."""
    return _to_bytes(tensors, {**metadata, _FORMAT_KEY: FORMAT})


def write_plain(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same for a safetensors file of another tool's format, which does not say that it is dreamtune's."""
    _write(path, _to_bytes(tensors, metadata))


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        reason = error.strerror or error
        raise AdapterFileError(f"cannot write {path}: {reason}; free some disk space or choose another path") from None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a file that :func:`write` made.

    Raises AdapterFileError when it is missing, unreadable, damaged, of another tool or of another format version.
    """
    tensors, metadata, _ = _read(path, None)
    return tensors, metadata


def read_any(path: Path, check: Check) -> tuple[dict[str, Tensor], dict[str, str], str | None]:
    """The same for the files of other tools too, with the name of the tool; None for dreamtune.

    Raises what `check` does, which is asked of other tools' files only, with the file's name before it.
    """
    return _read(path, check)


def _read(path: Path, check: Check | None) -> tuple[dict[str, Tensor], dict[str, str], str | None]:
    if path.is_dir():
        raise AdapterFileError(f"{path} is a folder: use the .safetensors file in it")
    try:
        with open_regular(path) as file:
            start, header = _read_header(path, file)
            metadata, tool = _identify(path, header, check)  # before the tensors, which may be a whole model's
            content = file.read()
    except DreamtuneError:
        raise
    except FileNotFoundError:
        raise AdapterFileError(f"no adapter file {path}: check the path") from None
    except (OSError, ValueError) as error:  # the latter for a name with a NUL
        raise AdapterFileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        tensors = load_bytes(start + content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:  # the latter: a type or a size torch lacks
        raise AdapterFileError(f"{path} is truncated or damaged: copy it again ({first_line(error)})") from None
    if tool is None and metadata.get(_CHECKSUM_KEY) != _checksum(content):
        raise AdapterFileError(f"{path} has changed since it was saved (wrong checksum): copy it again")
    return tensors, metadata, tool


def _to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    plain = save_bytes(dict(tensors))
    start = 8 + int.from_bytes(plain[:8], "little")
    header, content = json.loads(plain[8:start]), plain[start:]
    # The library would write metadata in an order that differs from process to process.
    header["__metadata__"] = {**metadata, _CHECKSUM_KEY: _checksum(content)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content


def _checksum(content: bytes) -> str:
    """As ModelSpec defines it: of all bytes behind the header."""
    return "0x" + hashlib.sha256(content).hexdigest()


def _read_header(path: Path, file: IO[bytes]) -> tuple[bytes, dict[str, Any]]:
    """The bytes up to the first tensor, and the header in them."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) == 8 and length <= min(os.fstat(file.fileno()).st_size - 8, _LONGEST_HEADER):
        text = file.read(length)
        with contextlib.suppress(ValueError, RecursionError):
            header = json.loads(text)
            if isinstance(header, dict):
                return prefix + text, header
    start = prefix + file.read(32)
    for beginning, what in _NOT_TENSORS.items():
        if start.startswith(beginning):
            raise AdapterFileError(f"{path} is {what}")
    raise AdapterFileError(f"{path} is truncated or not a safetensors file: copy it again, or use another")


def _identify(path: Path, header: dict[str, Any], check: Check | None) -> tuple[dict[str, str], str | None]:
    """The metadata, and the other tool that the file is of if there may be others."""
    metadata = header.get("__metadata__", {})
    metadata = metadata if isinstance(metadata, dict) else {}
    if _FORMAT_KEY in metadata:
        version = metadata[_FORMAT_KEY]
        if version != FORMAT:
            raise AdapterFileError(
                f"{path} has format version {version}, not {FORMAT}: use another version of dreamtune"
            )
        return metadata, None
    shapes = _shapes(path, header)
    tool = _tool_of(shapes)
    if check is not None:
        try:
            check(shapes)
        except AdapterFileError as error:
            raise AdapterFileError(f"{path}: {error}") from None
        return metadata, tool or "another tool"
    if tool:
        raise AdapterFileError(f"{path} is from another tool ({tool}): read it with read_adapter")
    raise AdapterFileError(f"{path} contains no adapter: use the adapter.safetensors of a run")


def _shapes(path: Path, header: dict[str, Any]) -> dict[str, list[int]]:
    shapes = {}
    for name, told in header.items():
        if name != "__metadata__":
            shape = told.get("shape") if isinstance(told, dict) else None
            if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
                raise AdapterFileError(f"{path} is truncated or damaged: copy it again ({name} has no size)")
            shapes[name] = shape
    return shapes


def _tool_of(names: Iterable[str]) -> str | None:
    names = [_NAMED.sub(r"\1", name) for name in names]
    for tool, ends in _OTHER_TOOLS.items():
        found = [name for name in names if name.endswith(ends)]
        if found:  # PEFT has LyCORIS' names of tensors, but paths of layers, and it keeps the alpha elsewhere
            return tool if tool != "LyCORIS" or any(name.startswith(_LYCORIS_STARTS) for name in found) else "PEFT"
    return None
