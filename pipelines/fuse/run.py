"""From several adapter files to one adapter file, or to a base with all of them merged in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.fusion import WeightedAdapter, as_file, common_layers, fuse_layers
from dreamtune.models import Base, load_base
from dreamtune.models.families import USUAL
from dreamtune.pipelines.adapter_ref import AdapterRef, base_name, drawn_by
from dreamtune.pipelines.fuse.check import check, texts
from dreamtune.pipelines.fuse.config import FuseConfig
from dreamtune.pipelines.fuse.output import description, loss_of, with_energy, write_checkpoint
from dreamtune.pipelines.fuse.recording import Recorder
from dreamtune.pipelines.fuse.stages import Stages
from dreamtune.pipelines.output import complete
from dreamtune.pipelines.progress import OnProgress, Progress, on_stderr, shows_progress


@dataclass(frozen=True)
class FuseResult:
    """What was written."""

    out: Path
    method: str
    ranks: dict[str, int]
    """Layer path -> rank; empty for a checkpoint."""
    energy: dict[str, float]
    """Layer path -> share of ‖ΔW‖² of the fusion that is kept, 1 where it is exact."""
    warning: str | None
    """Set if a layer keeps too little, with the remedy."""
    remarks: tuple[str, ...]
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether all layers keep all of the fusion."""
        return all(share == 1 for share in self.energy.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return (
            {"warning": self.warning}
            | vars(self)
            | {
                "out": str(self.out),
                "exact": self.exact,
                "least_energy_kept": min(self.energy.values()),
                "remarks": list(self.remarks),
                "seconds": round(self.seconds, 3),
            }
        )


@shows_progress
def fuse(config: FuseConfig, out: str | Path, on_progress: OnProgress = on_stderr) -> FuseResult:
    """Write the fusion of `config.adapters` to `out`, which must not exist.

    Raises ConfigError for settings that fit neither each other nor the adapters, AdapterFileError and BaseModelError
    for files that cannot be read or written, IncompatibleModelError for adapters of different bases. Nothing is
    written then.
    """
    began = time.monotonic()
    place = Path(out).expanduser()
    checked = check(config, place)
    uses, taken, vectors = checked.uses, checked.ingredients, checked.vectors

    records = common_layers(taken)
    model = _base(config, uses, to_record=checked.reads)
    weights = None if model is None else _weights(taken, model)
    recorder, read = None, None if model is None else texts(config, uses, USUAL[model.family])
    if read is None:
        layers = fuse_layers(
            taken, checked.options, weights, lambda done, total: on_progress(Progress("fuse", done, total))
        )
    else:
        assert model is not None and weights is not None
        recorder = Recorder(model, records, config.steps, USUAL[model.family].guidance, config.seed)
        layers = Stages(taken, checked.options, weights, *read, recorder, on_progress).run()
    rank, whole = (None, True) if config.rank == "full" else (config.rank, config.format == "checkpoint")
    fused = as_file(layers, records, rank, whole=whole, vectors=vectors, **description(config, uses, list(vectors)))
    with complete(place, AdapterFileError) as target:
        if config.format == "adapter":
            with_energy(fused).save(target)
        else:
            assert model is not None
            source = Path(config.base or base_name(uses)).expanduser()
            write_checkpoint(fused.file, model, source, target, config.any_base)
    if recorder is not None:
        recorder.clear()
    warning = loss_of(fused.energy)
    if warning:
        on_progress(Progress("remark", message=warning))
    return FuseResult(
        out=place,
        method=config.method,
        ranks=dict(fused.ranks) if config.format == "adapter" else {},
        energy=dict(fused.energy),
        warning=warning,
        remarks=checked.remarks,
        seconds=time.monotonic() - began,
    )


def _base(config: FuseConfig, uses: Sequence[AdapterRef], *, to_record: bool) -> Base | None:
    """The base, if it is needed, checked to fit all adapters; on the CPU unless it has to generate."""
    dependent = any(adapter.uses_weight for use in uses for adapter in use.file.adapters().values())
    if config.format == "adapter" and config.base is None and not dependent and not to_record:
        return None

    name = base_name(uses) if config.base is None else config.base
    if config.format == "checkpoint" and not Path(name).expanduser().is_file():
        raise ConfigError(
            f"{name} is not a single-file checkpoint to write a changed copy of: set base to a .safetensors checkpoint"
        )
    base = drawn_by(load_base(name, config.device if to_record else "cpu", local=config.base is None), uses)
    for use in uses:
        use.check(base, config.any_base)
    return base


def _weights(taken: Sequence[WeightedAdapter], base: Base) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for it in taken:
        weights |= it.file.weights(base.parts)
    return weights
