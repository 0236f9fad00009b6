"""One kind of input, what is right for it, and what dreamtune does."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.bounded import Bounded, Outcome


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    expected: str
    """In words."""
    make: Callable[[Path], Sequence[object]]
    """Write the input into an empty folder; returns the arguments of the command that meets it."""
    right: Callable[[Outcome, Path], bool]
    """Whether what the command did is that; the folder is the one above."""


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    case: Case
    got: str
    ok: bool


def look(case: Case, folder: Path, bounded: Bounded) -> Row:
    """Make the input in a new folder, and see."""
    folder.mkdir(parents=True)
    outcome = bounded.run(*map(str, case.make(folder)))
    ok = outcome.fault is None and case.right(outcome, folder)
    got = outcome.fault or f"exit code {outcome.code}: {_brief(outcome)}"
    return Row(case, got.replace(f"{folder}/", ""), ok)


def _brief(outcome: Outcome) -> str:
    if outcome.code == 0 and outcome.out.startswith("{"):
        found = json.loads(outcome.out)
        told = found.get("remarks") or found.get("summary") or ""
        return f"{found.get('method', 'read')}; {told}"
    return outcome.told


def says(*words: str) -> Callable[[Outcome, Path], bool]:
    """Bad input: one clear error in which all of these words stand."""
    return lambda outcome, folder: outcome.code == 2 and all(word in outcome.err for word in words)


def either(*answers: Callable[[Outcome, Path], bool]) -> Callable[[Outcome, Path], bool]:
    """Any of these answers is right."""
    return lambda outcome, folder: any(answer(outcome, folder) for answer in answers)


def reads(check: Callable[[dict[str, Any]], bool]) -> Callable[[Outcome, Path], bool]:
    """Done, and the JSON that was printed passes."""
    return lambda outcome, folder: outcome.code == 0 and check(json.loads(outcome.out))


def inspect(path: Path) -> list[str]:
    """The command for an adapter file."""
    return ["inspect", str(path), "--json"]


def check(folder: Path) -> list[str]:
    """The command for a folder of pictures."""
    return ["check", str(folder), "--class", "dog", "--token", "sks", "--json"]


def raw(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: Mapping[str, str]) -> Path:
    """A safetensors file by hand, for what no library writes: name -> (type, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def zeros(*shape: int) -> tuple[str, list[int], bytes]:
    """A tensor for :func:`raw`."""
    return "F32", list(shape), bytes(4 * prod(shape))


def picture(path: Path, seed: int, side: int = 96) -> None:
    """A picture of coarse noise, so that no two are alike."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), "uint8")
    Image.fromarray(cells).resize((side, side)).save(path)
