"""How much the adapters of a fusion interfere, and which fusion method this recommends."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.evaluation.pocket_judge import digest
from dreamtune.fusion import changes, common_layers
from dreamtune.models import Base, load_base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.adapter_ref import AdapterRef, base_name, drawn_by
from dreamtune.pipelines.analyze.config import AnalyzeConfig
from dreamtune.pipelines.analyze.effects import effects
from dreamtune.pipelines.analyze.recording import record
from dreamtune.pipelines.analyze.together import footnote, sentences
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.prompts import adapter_prompts
from dreamtune.pipelines.fuse.stages import DRAWN
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress

QUIET = 0.09
"""Crosstalk X below which adapters are assumed not to disturb each other if nothing was measured: an adapter's outputs
change by less than 30% of its own effect. A choice, not a finding."""
_LOSS = 0.1
"""Loss of subject fidelity, of 1 for all of it, that is no reason to do more than to add."""
CALIBRATION = Path(__file__).with_name("calibration.json")
"""What `python -m benchmarks.calibration` measured, as far as it is needed here; a part of the package."""
CALIBRATED = "pocket"
"""The base it was measured on. It says nothing of others."""


@dataclass(frozen=True)
class Pair:
    """Two adapters at their weights, over all layers together."""

    a: str
    b: str
    crosstalk: tuple[float | None, float | None]
    """X = E‖ΔW_b x‖² / E‖ΔW_a x‖² on the layers' inputs while a generates, and the same with a and b swapped; None if
    one changes nothing."""
    dominant: str | None
    """The one that drowns out the other, if one does."""
    routed: int
    """Layers where each changes the other's output more than the other itself does, even at balanced strengths."""
    forecast: tuple[float | None, float | None]
    """Loss of subject fidelity of a and of b when both are added: the median that was measured for such a crosstalk."""


@dataclass(frozen=True)
class Explanation:
    """The recommended fusion, and the reasons for it."""

    pairs: tuple[Pair, ...]
    prompts: tuple[str, ...]
    """The prompts that were recorded, those of the first adapter first."""
    method: str
    """The recommended fusion method."""
    balance: str | None
    reasons: tuple[str, ...]
    calibration: dict[str, Any] | None
    """Rank correlation of measured loss and crosstalk, with its interval, the number of pairs, and whether the base
    had the weights that it has now (`same_base`); None without."""
    together: tuple[str, ...] = ()
    """Shown first: which adapters are of one subject, what each will lose in an image of two, and the reliability."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@shows_progress
def explain(config: FuseConfig, on_progress: OnProgress = on_stderr) -> Explanation:
    """Generate an image with each adapter of non-zero weight, and predict how much they disturb each other.

    Uses the first four of `config.prompts` per adapter, if there are any, else one prompt of its subject, with
    `config.steps` as in a fusion that records.

    Raises ConfigError, AdapterFileError, BaseModelError and IncompatibleModelError for adapters that cannot be fused.
    """
    given = [AdapterRef.load(text) for text in config.adapters]
    uses = [use for use in given if use.strength != 0]
    name = base_name(uses) if config.base is None else config.base
    base = drawn_by(load_base(name, config.device, local=config.base is None), uses)
    for use in uses:
        use.check(base, config.any_base)
    usual = USUAL[base.family]
    given = adapter_prompts(config.prompts, uses, "the forecast", usual) if config.prompts else None
    prompts = given and [own[:DRAWN] for own in given]
    settings = AnalyzeConfig(adapters=config.adapters, any_base=config.any_base, seed=config.seed, steps=config.steps)
    found = record(settings, uses, base, _gains(uses, base, on_progress), on_progress, prompts)
    total, measured = found.total().tolist(), _calibration() if base.id == CALIBRATED else None
    names = [use.name for use in uses]
    advice = {(it.a, it.b): it for it in found.advice()}
    pairs = []
    for a, b in combinations(range(len(uses)), 2):
        crosstalk = (_defined(total[a][b]), _defined(total[b][a]))
        dominant = advice[a, b].dominant
        pairs.append(
            Pair(
                a=names[a],
                b=names[b],
                crosstalk=crosstalk,
                dominant=None if dominant is None else names[dominant],
                routed=len(advice[a, b].route),
                forecast=(_loss(crosstalk[0], measured), _loss(crosstalk[1], measured)),
            )
        )
    method, balance, reasons = _recommend(pairs)
    told = measured and measured["correlation"]["crosstalk"] | {
        "pairs": measured["pairs"],
        "same_base": measured["base"] == digest(base),
    }
    asked = effects(uses, base, on_progress, config.steps, config.seed, config.any_base)
    together = [line for pair, it in asked.items() for line in sentences(names, pair, it)]
    lines = (*together, footnote(base.id)) if together else ()
    return Explanation(tuple(pairs), found.prompts, method, balance, tuple(reasons), told, lines)


def _gains(uses: Sequence[AdapterRef], base: Base, on_progress: OnProgress) -> dict[str, dict[int, Tensor]]:
    """Layer -> number of an adapter -> gain of its change at its weight there."""
    ingredients = [use.ingredient for use in uses]
    records = common_layers(ingredients)
    weights = {path: weight for use in uses for path, weight in use.file.weights(base.parts).items()}
    own = [changes(it, records, weights) for it in ingredients]
    gains: dict[str, dict[int, Tensor]] = {}
    for done, path in enumerate(records, 1):
        here = {number: own[number](path) for number, use in enumerate(uses) if path in use.file.layers}
        gains[path] = {number: delta.scaled(weight).gain for number, (weight, delta) in here.items() if weight != 0}
        on_progress(Progress("explain", done, len(records)))
    return gains


def _recommend(pairs: Sequence[Pair]) -> tuple[str, str | None, list[str]]:
    """Method, balance, and why."""
    disturbed = [pair for pair in pairs if any(map(_disturbs, pair.crosstalk, pair.forecast))]
    reasons = []
    if not disturbed:
        reasons.append("sum is exact, and no adapter is predicted to disturb another much.")
    else:
        names = ", ".join(f"{pair.a} and {pair.b}" for pair in disturbed)
        reasons.append(
            f"{names} disturb each other when their changes are summed; on each adapter's own inputs, gradient "
            "reproduces its outputs as closely as a single weight can."
        )
    drowned = [pair for pair in pairs if pair.dominant]
    for pair in drowned:
        other = pair.b if pair.dominant == pair.a else pair.a
        reasons.append(f"{pair.dominant} would drown out {other}: set balance = output, or lower its weight.")
    for pair in pairs:
        if pair.routed:
            layers = "layer" if pair.routed == 1 else "layers"
            reasons.append(
                f"In {pair.routed} {layers} no single weight can serve both {pair.a} and {pair.b}: use `dreamtune "
                "generate --region` to apply each adapter in its own part of the image, without fusing."
            )
    return "gradient" if disturbed else "sum", "output" if drowned else None, reasons


def _disturbs(crosstalk: float | None, loss: float | None) -> bool:
    if loss is not None:
        return loss > _LOSS
    return crosstalk is not None and crosstalk > QUIET


def _loss(crosstalk: float | None, calibration: dict[str, Any] | None) -> float | None:
    """The median loss of the third of the measured pairs whose crosstalk is nearest."""
    if crosstalk is None or calibration is None:
        return None
    rows = calibration["loss_by_crosstalk"]
    return next((row["median"] for row in rows if crosstalk <= row["to"]), rows[-1]["median"])


def _calibration() -> dict[str, Any] | None:
    """What was measured; None where it has no rank correlation."""
    measured = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    return measured if None not in measured["correlation"]["crosstalk"].values() else None


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
