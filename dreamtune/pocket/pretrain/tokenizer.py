"""A CLIP tokenizer with one token for every word of the world and bytes for anything else."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import itertools
import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from ..world import vocabulary

_END = "</w>"


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of an ASCII word: merge the pair of lowest rank until none is left."""
    pieces = [*word[:-1], word[-1] + _END]
    while len(pieces) > 1:
        pair = min(itertools.pairwise(pieces), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == pair:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged
    return pieces


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Merges under which each word ends as one token: whatever pieces earlier merges leave are merged in turn."""
    ranks: dict[tuple[str, str], int] = {}
    while broken := [w for w in words if len(_split(w, ranks)) > 1]:
        pieces = _split(broken[0], ranks)
        ranks[pieces[0], pieces[1]] = len(ranks)
    return list(ranks)


def new_tokenizer(max_tokens: int) -> CLIPTokenizer:
    """A tokenizer for any text: words of the world are single tokens, other words fall back to letters and bytes."""
    return CLIPTokenizer(vocab=_vocabulary(), merges=_merges(vocabulary()), model_max_length=max_tokens)


def _vocabulary() -> dict[str, int]:
    letters = sorted(ByteLevel.alphabet())
    symbols = [*letters, *(s + _END for s in letters), *("".join(m) for m in _merges(vocabulary()))]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    return {s: i for i, s in enumerate(dict.fromkeys(symbols))}


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write tokenizer.json, and vocab.json with merges.txt for programs that read only those."""
    for forget in (tokenizer.backend_tokenizer.no_padding, tokenizer.backend_tokenizer.no_truncation):
        forget()  # it remembers the last call's, which would be saved
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary(), ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(m) for m in _merges(vocabulary()))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
