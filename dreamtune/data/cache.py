"""Tensors on disk under the hash of everything they depend on, so that a stale one can never be found.

Entries are written to a temporary name and renamed, so that processes which share the cache see whole
entries or none; two that compute the same entry write the same bytes and neither waits. A damaged entry
counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dreamtune.data import cache_eviction
from dreamtune.errors import ConfigError
from dreamtune.storage import atomic, cache_dir

_ATTEMPTS = 5
_digests: WeakKeyDictionary[nn.Module, tuple[tuple[tuple[str, torch.dtype, int, int], ...], str]] = WeakKeyDictionary()
"""Of each module what its tensors were, and the digest of that."""


def key_of(description: Mapping[str, Any]) -> str:
    """Hash of a JSON-able description of everything an entry depends on."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers: names, types, shapes and every byte.

    It takes seconds for a large model, so it is kept for as long as the very same tensors were not written to.
    """
    tensors = sorted(module.state_dict(keep_vars=True).items())
    stamp = tuple((name, tensor.dtype, tensor.data_ptr(), tensor._version) for name, tensor in tensors)
    known = _digests.get(module)
    if known is None or known[0] != stamp:
        known = _digests[module] = (stamp, _digest(tensors))
    return known[1]


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Cache:
    """Named tensors by key, in the folder `kind` of the cache."""

    kind: str
    root: Path | None = None
    """The cache's folder; cache_dir() if not given."""

    def path(self, key: str) -> Path:
        """Where the entry of `key` is or would be."""
        return (self.root or cache_dir()) / self.kind / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry's tensors on the CPU, or None if there is none or it is damaged."""
        path = self.path(key)
        try:
            tensors = load(path.read_bytes())  # at once: another process may remove it between two readings
        except (OSError, SafetensorError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # marks the use; access times are often not kept
        return tensors

    def make_room(self) -> None:
        """Bring the whole cache back within its limit; to be called after a batch of entries, never between them."""
        cache_eviction.make_room(self.root)

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry. Raises ConfigError if the cache cannot be written."""
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            write_tensors(self.path(key), whole)
        except OSError as error:
            raise unwritable(self.root or cache_dir(), error) from None


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Have `fill` write a file whole, again if its folder vanishes meanwhile because another process clears the cache.

    Raises OSError.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with atomic(path) as temporary:
                fill(temporary)
            return
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The same for a safetensors file."""
    content = save(dict(tensors))  # save_file would tell of a full disk by an error of its own kind
    write(path, lambda temporary: temporary.write_bytes(content))


def unwritable(where: Path, error: OSError) -> ConfigError:
    """The error of a cache that cannot be written."""
    return ConfigError(
        f"cannot write the cache {where}: {error.strerror or error}; free some disk space (dreamtune cache clear) "
        "or set DREAMTUNE_CACHE to another folder"
    )
