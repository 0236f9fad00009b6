"""Fusions that record the layers' inputs while each adapter is used, in the order of Mix-of-Show (arXiv 2305.18292).

Text encoders come first, then the keys and values of cross-attention, whose inputs are the prompts as encoded by the
fused text encoders, and last all other layers, whose inputs are recorded while each adapter generates with the fused
keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from dreamtune.adapters import Delta
from dreamtune.adapters.parts import UNET, split_part
from dreamtune.adapters.targets import TARGETS
from dreamtune.fusion import FusionOptions, Inputs, WeightedAdapter, changes, fuse_layers
from dreamtune.pipelines.fuse.recording import Changes, Recorder
from dreamtune.pipelines.progress import OnProgress, Progress

DRAWN = 4
"""Images per adapter, of its first prompts: each has thousands of positions, so a few are enough."""
WORDS = "custom-diffusion"
"""Fuses keys and values by the prompts' tokens; all other layers, which its paper does not change, are summed."""


@dataclass
class Stages:
    """One fusion, stage by stage."""

    taken: Sequence[WeightedAdapter]
    """Those of a weight other than 0."""
    options: FusionOptions
    weights: Mapping[str, Tensor]
    """Layer path -> base weight."""
    prompts: Sequence[Sequence[str]]
    """Of each of `taken`."""
    captions: Sequence[str]
    """Without any subject, for custom-diffusion."""
    recorder: Recorder
    on_progress: OnProgress
    fused: dict[str, Delta] = field(default_factory=dict)
    """Layer path -> ΔW of what is fused so far."""

    def run(self) -> dict[str, Delta]:
        """Layer path -> ΔW of the fusion. Raises what fuse_layers and Recorder.draw do."""
        every = list(self.recorder.records)
        text = [path for path in every if split_part(path)[0] != UNET]
        keys_and_values = [path for path in every if _is_key_or_value(path)]
        rest = [path for path in every if path not in {*text, *keys_and_values}]
        self._fuse(text, self._read(text))
        self._fuse(keys_and_values, self._contexts(keys_and_values), by_words=self.options.method == WORDS)
        self._fuse(rest, self._drawn(rest))
        return {path: self.fused[path] for path in every if path in self.fused}

    def _read(self, paths: Sequence[str]) -> Inputs | None:
        if not self._measures(paths):
            return None
        own = [self.recorder.read(paths, self.prompts[n], self._changes(n, paths)) for n in range(len(self.taken))]
        return Inputs(own)

    def _contexts(self, paths: Sequence[str]) -> Inputs | None:
        """Keys and values all get the same."""
        words = self.options.method == WORDS
        if not paths or not (words or self._measures(paths)):
            return None
        own = [
            self.recorder.context(prompts, self._changes(number), words=words)
            for number, prompts in enumerate(self.prompts)
        ]
        kept = self.recorder.context(self.captions, Changes(dict(self.fused)), words=True) if words else None
        return Inputs([dict.fromkeys(paths, it) for it in own], {} if kept is None else dict.fromkeys(paths, kept))

    def _drawn(self, paths: Sequence[str]) -> Inputs | None:
        if not self._measures(paths):
            return None
        drawn, own, before = [prompts[:DRAWN] for prompts in self.prompts], [], 0
        total = sum(map(len, drawn))
        for number, prompts in enumerate(drawn):

            def on_progress(done: int, before: int = before) -> None:
                self.on_progress(Progress("record", before + done, total))

            own.append(self.recorder.draw(paths, prompts, self._changes(number, paths), on_progress))
            before += len(prompts)
        return Inputs(own)

    def _measures(self, paths: Sequence[str]) -> bool:
        """Whether the inputs of these layers play a part."""
        return bool(paths) and (self.options.balance == "output" or self.options.method == "gradient")

    def _changes(self, number: int, paths: Collection[str] = ()) -> Changes:
        """The layers fused so far, the token of one adapter, and its changes in `paths`."""
        it = self.taken[number]
        own = changes(it, self.recorder.records, self.weights)
        deltas = dict(self.fused)
        for path in paths:
            weight, delta = own(path)
            if path in it.file.layers and weight != 0:
                deltas[path] = delta.scaled(weight)
        return Changes(deltas, it.file)

    def _fuse(self, paths: Collection[str], inputs: Inputs | None, *, by_words: bool = False) -> None:
        options, before, total = self.options, len(self.fused), len(self.recorder.records)
        if options.method == WORDS and not by_words:
            options = replace(options, method="sum")
        layers = fuse_layers(
            self.taken,
            options,
            self.weights,
            lambda done, _: self.on_progress(Progress("fuse", before + done, total)),
            inputs=inputs,
            paths=set(paths),
        )
        self.fused |= dict(layers)


def _is_key_or_value(path: str) -> bool:
    """Whether it is one of cross-attention, in the UNet."""
    return split_part(path)[0] == UNET and re.search(TARGETS["kv"], path) is not None
