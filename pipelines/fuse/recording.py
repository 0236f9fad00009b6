"""Records the inputs of layers while a base encodes prompts and generates images with changes not yet in a file.

Recordings are kept in the cache per image, each complete or absent: a process that was killed continues after its last
complete image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import psutil
from torch import Tensor, nn

from dreamtune.adapters import AdapterFile, Delta
from dreamtune.adapters.description import LayerRecord
from dreamtune.adapters.parts import holder, split_part
from dreamtune.data.cache import Cache, key_of, weights_digest
from dreamtune.errors import ConfigError
from dreamtune.fusion import Moments, as_file, content_digest, recorded
from dreamtune.models import Base
from dreamtune.models.device import arithmetic, enough_memory

_VERSION = 1
"""Of the recordings in the cache; counts up when something else is recorded."""
_BATCH = 16
"""Prompts that are read at once."""


@dataclass
class Recorder:
    """Records on `base`, which is in fp32 and without adapters."""

    base: Base
    records: Mapping[str, LayerRecord]
    """All layers that may change."""
    steps: int
    guidance: float
    seed: int
    """Seed of the first image of every adapter; later images have the next seeds."""
    _kept: list[str] = field(default_factory=list)
    """Keys of what was put into the cache."""

    def read(self, paths: Sequence[str], prompts: Sequence[str], changes: Changes) -> dict[str, Tensor]:
        """Layer path -> C (in, in), of layers of text encoders while they read the prompts."""
        moments = Moments()
        with self._acting(changes), recorded(self._modules(paths), moments):
            self.base.condition(prompts)
        return moments.means()

    def context(self, prompts: Sequence[str], changes: Changes, *, words: bool) -> Tensor:
        """C (dim, dim) fp64 of the inputs of keys and values: of all tokens, or of the prompts' words alone.

        Words are the tokens between start and end token; those two, and the padding, say little about the words.
        """
        moments = Moments()
        with self._acting(changes):
            for start in range(0, len(prompts), _BATCH):
                batch = prompts[start : start + _BATCH]
                for prompt, condition in zip(batch, self.base.condition(batch), strict=True):
                    rows = condition.embedding.cpu().double()  # (tokens, dim)
                    moments.add("", rows[1 : self._end(prompt)] if words else rows)
        return moments.means()[""]

    def draw(
        self, paths: Sequence[str], prompts: Sequence[str], changes: Changes, on_progress: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Layer path -> C (in, in), of UNet layers while images of the prompts are generated.

        on_progress gets the number of images that are done. Raises ConfigError for a cache that cannot be written, or
        if the device or machine has too little memory.
        """
        self._check_room(paths)
        cache, moments, done = _cache(), Moments(), 0
        keys = self._keys(paths, prompts, changes)
        self._kept += keys
        for count in range(len(prompts), 0, -1):
            stored = cache.get(keys[count - 1])
            if stored is not None:
                moments, done = Moments.of_tensors(stored, self.base.device), count
                break
        on_progress(done)
        device = self.base.device.type
        remedy = "close other programs" if device == "cpu" else "set another device, e.g. cpu"
        too_little = ConfigError(f"not enough {device} memory to generate with {self.base.id} in fp32: {remedy}")
        with self._acting(changes), recorded(self._modules(paths), moments):
            for number in range(done, len(prompts)):
                with enough_memory(too_little):
                    self.base.draw(
                        [prompts[number]],
                        [self.seed + number],
                        size=self.base.resolution,
                        steps=self.steps,
                        guidance=self.guidance,
                    )
                cache.put(keys[number], moments.tensors())
                if number:
                    cache.path(keys[number - 1]).unlink(missing_ok=True)  # this one has all of it
                on_progress(number + 1)
        return moments.means()

    def clear(self) -> None:
        """Remove from the cache what was recorded here; to be called when the fusion is safe."""
        for key in self._kept:
            _cache().path(key).unlink(missing_ok=True)

    def _check_room(self, paths: Sequence[str]) -> None:
        """Of convolutions C is as large as their patches are long: 2 GB in fp32 for the widest of SD 1.5."""
        sizes = [4 * self.records[path].shape[1] ** 2 for path in paths]
        needed, free = 2 * sum(sizes), psutil.virtual_memory().available  # while they are summed, and their means
        if needed > free:
            raise ConfigError(
                f"recording the inputs of {len(paths)} layers needs {needed / 1e9:.0f} GB of memory, but only "
                f"{free / 1e9:.0f} GB are free: use sum or ties, or adapters without convolutions"
            )

    @contextmanager
    def _acting(self, changes: Changes) -> Iterator[None]:
        """Changes and tokens on the base, for the length of the block."""
        with ExitStack() as stack:
            file = changes.file(self.records)
            if file is not None:
                stack.enter_context(self.base.attach(file, any_base=True)).merge()  # whether it fits was checked before
            for word in [] if changes.words_of is None else changes.words_of.words():
                self.base.add_token(word)
                stack.callback(word.detach)
            yield

    def _modules(self, paths: Sequence[str]) -> dict[str, nn.Module]:
        parts = {path: split_part(path) for path in paths}
        return {path: holder(part, self.base.parts[part]).get_submodule(inner) for path, (part, inner) in parts.items()}

    def _end(self, prompt: str) -> int:
        """Place of the mark of a prompt's end among its tokens."""
        mark = cast(int, self.base.tokenizer.eos_token_id)
        return self.base.tokens(prompt)["text_encoder"].index(mark, 1)

    def _keys(self, paths: Sequence[str], prompts: Sequence[str], changes: Changes) -> list[str]:
        """Of the recordings of the first prompt, of the first two, and so on."""
        about = {
            "version": _VERSION,
            "base": self._digest,
            "changes": changes.digest(self.records),
            "paths": list(paths),
            "drawing": [self.base.resolution, self.steps, self.guidance, self.seed, arithmetic(self.base.device)],
            "noise": bool(self.base.scheduler.config.get("rescale_betas_zero_snr")),
        }
        return [key_of({**about, "prompts": list(prompts[:count])}) for count in range(1, len(prompts) + 1)]

    @cached_property
    def _digest(self) -> dict[str, str]:
        """Of the base's parts; they are the same after each recording, bit for bit."""
        return {part: weights_digest(model) for part, model in self.base.parts.items()}


@dataclass(frozen=True, eq=False)
class Changes:
    """What acts on a base: changes of layers, and the embeddings of new tokens."""

    deltas: Mapping[str, Delta]
    words_of: AdapterFile | None = None
    """The file of the new tokens; it may have none."""

    def file(self, records: Mapping[str, LayerRecord]) -> AdapterFile | None:
        """The deltas as a file, not factorized; None without any."""
        if not self.deltas:
            return None
        about = {"base": "", "token": "", "class_word": "", "training": {}}
        return as_file(self.deltas, records, None, whole=True, **about).file

    def digest(self, records: Mapping[str, LayerRecord]) -> list[str]:
        """Of all that decides what they do."""
        file = self.file(records)
        told = self.words_of if self.words_of is not None and self.words_of.new_tokens else None
        return [content_digest(it) for it in (file, told) if it is not None] + [
            " ".join(told.new_tokens) if told else ""
        ]


def _cache() -> Cache:
    return Cache("recordings")
