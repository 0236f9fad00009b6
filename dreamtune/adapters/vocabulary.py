"""The words of an adapter file that have embeddings of their own: their names among its tensors and in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dreamtune.errors import AdapterFileError
from dreamtune.words import same

from .parts import TEXT_ENCODERS

Sizes = Mapping[str, tuple[int, int]]
"""Text encoder -> (n, dim) of one word's embeddings."""

_EMBEDDING = "embedding."
"""Beginning of the names of embeddings; no layer of any part has such a path."""
_DAMAGED = "the file is damaged or was edited: copy it again"
_MOST_NUMBERS = 2**25
"""Of one word and text encoder. Prompts have room for 75 vectors, and the widest known ones have 1280 numbers."""


def tensor_name(part: str, word: str | None = None) -> str:
    """Name in an adapter file of the tensor (n, dim) of a text encoder; word: None for the token."""
    return f"{_EMBEDDING}{part}" if word is None else f"{_EMBEDDING}{part}.{word}"


def is_embedding(name: str) -> bool:
    """Whether a tensor of an adapter file is one of embeddings."""
    return name.startswith(_EMBEDDING)


def tensor_names(embeddings: Sizes, further: Mapping[str, Sizes]) -> dict[str, tuple[int, int]]:
    """Name -> (n, dim) of all tensors of embeddings: the token's, and those of further words."""
    own = {tensor_name(part): shape for part, shape in embeddings.items()}
    return own | {tensor_name(part, word): shape for word, sizes in further.items() for part, shape in sizes.items()}


def embeddings_of(header: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """The sizes of the token's embeddings, as a file's header tells them. Raises AdapterFileError."""
    return _sizes(_object(header, "embeddings"), "embeddings") if "dreamtune.embeddings" in header else {}


def further_embeddings_of(header: Mapping[str, str], others: Sequence[tuple[str, str]]) -> dict[str, Sizes]:
    """The same of further words, each of one of `others` (word, class) and for the token's text encoders.

    Raises AdapterFileError for words that no subject has, that are one word, or whose vectors are of another base.
    """
    if "dreamtune.further_embeddings" not in header:
        return {}
    token, tokens = header.get("dreamtune.trigger", ""), {token for token, _ in others}
    widths = {part: width for part, (_, width) in embeddings_of(header).items()}
    found: dict[str, Sizes] = {}
    for word, told in _object(header, "further_embeddings").items():
        sizes = _sizes(told, "further_embeddings") if isinstance(told, dict) else {}
        if not word or word not in tokens or any(same(word, known) for known in (token, *found)):
            raise AdapterFileError(
                f"dreamtune.further_embeddings has {word!r}, which is not another subject's token: {_DAMAGED}"
            )
        if not sizes or {part: width for part, (_, width) in sizes.items()} != widths:
            raise AdapterFileError(
                f"dreamtune.further_embeddings has other sizes for {word!r} than for the token: {_DAMAGED}"
            )
        found[word] = sizes
    return found


def _sizes(told: Mapping[str, Any], name: str) -> dict[str, tuple[int, int]]:
    found = {}
    for part, shape in told.items():
        match shape:
            case [int(count), int(width)] if (
                part in TEXT_ENCODERS and count > 0 < width and count * width <= _MOST_NUMBERS
            ):
                found[part] = (count, width)
            case _:
                raise AdapterFileError(f"dreamtune.{name} has no valid size for the {part}: {_DAMAGED}")
    return found


def _object(header: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        value = json.loads(header[f"dreamtune.{name}"])
    except (ValueError, TypeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AdapterFileError(f"dreamtune.{name} is not a JSON object: {_DAMAGED}")
    return value
