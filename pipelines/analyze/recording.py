"""Records what layers see while each adapter generates, to predict interference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from torch import Tensor, nn

from dreamtune.adapters.parts import holder, split_part
from dreamtune.analysis import Advice, advise, crosstalk, recorded, total_crosstalk
from dreamtune.analysis.interference import Recording
from dreamtune.models import Base
from dreamtune.models.families import USUAL, Usual
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.progress import OnProgress, Progress


@dataclass(frozen=True)
class Interference:
    """The recordings and what they say."""

    recordings: Sequence[Recording]
    """One per adapter."""
    prompts: tuple[str, ...]
    """The prompts, those of the first adapter first."""
    remarks: list[str] = field(default_factory=list)

    def total(self) -> Tensor:
        """X (adapters, adapters) of all layers together, see analysis.interference."""
        return total_crosstalk(self.recordings)

    def layer(self, name: str) -> Tensor:
        """X (adapters, adapters) of one layer."""
        return crosstalk(self.recordings, name)

    def advice(self) -> list[Advice]:
        """For every pair."""
        return [advise(self.recordings, a, b) for a, b in combinations(range(len(self.recordings)), 2)]

    def profile(self, number: int, names: Sequence[str]) -> list[float | None]:
        """Share of the output of the layers `names` that is adapter `number`'s change, at each call of the UNet.

        √(Σ‖Δx‖²/Σ‖y‖²) over layers; the first call is that at most noise.
        """
        one = self.recordings[number]
        calls = min((len(one.output[name]) for name in names), default=0)
        own = [sum(one.own[name][call] for name in names) for call in range(calls)]
        output = [sum(one.output[name][call] for name in names) for call in range(calls)]
        return [(o / y) ** 0.5 if y else None for o, y in zip(own, output, strict=True)]


def record(
    config: AnalyzeConfig,
    uses: Sequence[AdapterRef],
    base: Base,
    gains: Mapping[str, Mapping[int, Tensor]],
    on_progress: OnProgress,
    prompts: Sequence[Sequence[str]] | None = None,
) -> Interference:
    """Generate with each adapter alone and record its layers; the images are not kept.

    prompts: of each adapter, from the seeds `config.seed`, `config.seed` + 1, ...; without them one with all of its
    subjects, in the form that is usual for the base.
    """
    modules, usual = {name: _module(base, name) for name in gains}, USUAL[base.family]
    recordings, drawn, remarks = [], [], []
    for number, use in enumerate(uses):
        own = [_named(use, usual)] if prompts is None else prompts[number]
        if prompts is None and not use.file.subjects:
            remarks.append(f"{use.path.name} does not record its token: interference was measured with {own[0]!r}")
        with use.on(base, config.any_base), recorded(modules, gains, len(uses), number) as recording:
            for seed, prompt in enumerate(own, config.seed):
                base.draw([prompt], [seed], size=base.resolution, steps=config.steps, guidance=usual.guidance)
        recordings.append(recording)
        drawn += own
        on_progress(Progress("record", number + 1, len(uses)))
    return Interference(recordings, tuple(drawn), remarks)


def _named(use: AdapterRef, usual: Usual) -> str:
    """A prompt with all subjects of an adapter."""
    first, *others = use.file.subjects or [("", "")]
    return " and a ".join([usual.prompt(*first), *(" ".join(filter(None, it)) for it in others)])


def _module(base: Base, name: str) -> nn.Module:
    part, inner = split_part(name)
    return holder(part, base.parts[part]).get_submodule(inner)
