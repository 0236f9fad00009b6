"""A training that starts from an adapter file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from dreamtune.adapters import AttachedParts, NewToken
from dreamtune.adapters.formats import read_adapter
from dreamtune.adapters.starting import start_at
from dreamtune.errors import ConfigError, IncompatibleModelError
from dreamtune.models import Base
from dreamtune.pipelines.adapter_ref import AdapterRef, digest_of
from dreamtune.pipelines.progress import OnProgress, Progress
from dreamtune.training.config import TrainConfig
from dreamtune.words import same


@dataclass(frozen=True)
class StartFile:
    """The adapter to start from."""

    use: AdapterRef
    own: bool
    """Whether dreamtune wrote it; other tools record one text for token and class, or none."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of any known tool. Raises AdapterFileError."""
        path = path.expanduser()
        found = read_adapter(path)
        remarks = tuple(f"{path.name}: {it}" for it in found.remarks)
        return cls(AdapterRef(path, 1.0, found.file, digest_of(path), remarks), found.tool is None)

    def fill(self, config: TrainConfig) -> TrainConfig:
        """`config` with the file's method, rank, options, token and number of embeddings where they were not set.

        The scale stays that of the preset, which its learning rate is tuned for. Raises ConfigError for settings that
        contradict the file.
        """
        file, given = self.use.file, config.model_fields_set
        chosen: dict[str, Any] = {}
        if file.layers and "method" not in given:
            chosen["method"] = file.method
        if file.layers and chosen.get("method", config.method) == file.method:
            if config.rank is None:
                chosen["rank"] = file.config.rank
            chosen["method_options"] = file.config.form() | config.method_options
        if self.own and file.token and "token" not in given:
            chosen["token"] = file.token
        new = self._word(chosen.get("token", config.token))
        counts = {count for count, _ in file.new_tokens.get(new, {}).values()}
        if counts and "pivotal" not in given:
            chosen["pivotal"] = max(counts)
        elif counts and config.pivotal not in counts:
            raise ConfigError(
                f"pivotal = {config.pivotal}, but {self.use.path.name} has {max(counts)} vectors of its own for "
                f"{new!r}: set pivotal to that number, or omit it"
            )
        return config.changed(**chosen, start_from=self.use.path.resolve())

    def _word(self, token: str) -> str:
        """The file's token whose embeddings a training of `token` starts from: the same one, else the first."""
        words = self.use.file.new_tokens
        return next((word for word in words if same(word, token)), next(iter(words), ""))

    def begin(
        self, config: TrainConfig, base: Base, attached: AttachedParts, on_progress: OnProgress
    ) -> dict[str, Any]:
        """Initialize what is attached from the file; return what the new adapter file will record about it.

        Raises ConfigError for a method that cannot start from it, IncompatibleModelError for a file of another base.
        """
        file, told = self.use.file, dict[str, Any]()
        for remark in self.use.remarks:
            on_progress(Progress("remark", message=remark))
        if file.layers:
            start = start_at(attached.adapters, file, file.weights(base.parts))
            told = {"energy": round(start.energy, 6), "layers": start.layers}
            text = f"starts from {self.use.path.name} ({file.method}): {_share(start.energy)} of its change"
            if start.energy < 1 and start.least[1] < 1:
                path, least = start.least
                text += (
                    f"; rank {start.rank} would keep all of it in every layer; {path} keeps the least, {_share(least)}"
                )
            on_progress(Progress("remark", message=text))
            if start.left_out:
                on_progress(
                    Progress(
                        "remark",
                        message=f"{len(start.left_out)} of its layers, with {_share(start.energy_left_out)} of its "
                        f"change, are not trained here and are skipped, starting with {start.left_out[0]}: see targets "
                        "and text_encoder",
                    )
                )
        for word in file.words():
            if word.word == self._word(config.token):
                _begin_word(attached, word)
            else:
                message = f"{self.use.path.name} also has vectors for {word.word!r}, which are not trained here"
                on_progress(Progress("remark", message=message))
        if self.own and file.token and config.token not in file.tokens:
            message = (
                f"{self.use.path.name} was trained with the token {file.token!r}, but this run uses {config.token!r}"
            )
            on_progress(Progress("remark", message=message))
        return {"file": self.use.path.name, "sha256": self.use.digest, "method": file.method, **told}


def _begin_word(attached: AttachedParts, word: NewToken) -> None:
    """Raises IncompatibleModelError for embeddings of another base."""
    known = {} if attached.word is None else dict(attached.word.vectors.items())
    if {part: it.shape for part, it in word.vectors.items()} != {part: it.shape for part, it in known.items()}:
        raise IncompatibleModelError(f"the embeddings for {word.word!r} were made for another base: use that base")
    with torch.no_grad():
        for part, vectors in known.items():
            vectors.copy_(word.vectors[part])


def _share(share: float) -> str:
    return "all" if share == 1 else f"{min(share, 0.9999):.2%}"
