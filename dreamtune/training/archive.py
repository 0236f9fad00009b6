"""A tree of tensors and plain values in two files, without pickle and without losing a bit.

Dictionaries, lists, tuples, numbers, strings, None, numpy arrays and tensors come back equal in value and type:
tensors in a safetensors file, the rest as JSON that refers to them. Loading can run no code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamtune.errors import first_line


def write_tree(folder: Path, name: str, tree: Any) -> None:
    """Write `tree` as name.json and name.tensors (safetensors) to `folder`. Raises OSError."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(tree, tensors))  # Python writes floats so that they are read back exactly
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    try:
        save_file(tensors, folder / f"{name}.tensors")
    except SafetensorError as error:  # its own kind, for a full disk too
        raise OSError(f"{name}.tensors: {first_line(error)}") from None


def read_tree(folder: Path, name: str) -> Any:
    """Read what :func:`write_tree` wrote; tensors are on the CPU. Raises OSError, ValueError or SafetensorError."""
    tree = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return _unpack(tree, load_file(folder / f"{name}.tensors"))


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().clone().contiguous()  # a copy: shared storage is refused when saving
        return {"tensor": key}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, dict):  # as pairs: JSON would turn the optimizer's integer keys into strings
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"cannot store a {type(value).__name__} in a checkpoint")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["dict"]}
