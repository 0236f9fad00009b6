"""A smaller adapter: each layer gets the smallest rank that keeps a given share of its change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.adapters.formats import plain_lora
from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.models import load_base
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.output import check_new_file, complete


@dataclass(frozen=True)
class TrimResult:
    """What was written."""

    out: Path
    method: str
    """Of the adapter; the output is LoRA."""
    ranks: dict[str, int]
    """Layer path -> rank."""
    energy: float
    """Share of the sum of ‖ΔW‖² over all layers that is kept."""
    least_energy: float
    """Of the layer that keeps least."""
    bytes_before: int
    """Of the tensors."""
    bytes_after: int
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {"out": str(self.out), "ranks": dict(self.ranks), "remarks": list(self.remarks)}


def trim(adapter: str | Path, out: str | Path, energy: float = 0.95, base: str | None = None) -> TrimResult:
    """Write the adapter as LoRA of the smallest rank in each layer that keeps the share `energy` of ‖ΔW‖².

    base: the model that it is for, needed where ΔW depends on its weights. Embeddings of its words are kept.

    Raises ConfigError for an `energy` outside (0, 1], if `out` exists, or if the base is needed and missing;
    AdapterFileError, BaseModelError and IncompatibleModelError for files that cannot be used.
    """
    if not 0 < energy <= 1:
        raise ConfigError(f"energy = {energy} must be above 0 and at most 1: 0.95 keeps 95% of the change")
    place = Path(out).expanduser()
    check_new_file(place)
    use = AdapterRef.load(str(adapter))
    file = use.file
    if not use.as_trained:
        raise ConfigError(
            "a strength cannot be trimmed: use the file name alone, and set the strength when you load the result"
        )
    if not file.layers:
        raise ConfigError(f"{use.path} contains only embeddings and changes no layer: there is nothing to trim")

    weights = None if base is None else _weights(base, use)
    spectra = file.spectra(weights)
    if len(spectra) < len(file.layers):
        raise ConfigError(f"the change of {file.method} depends on the base's weights: use --base")
    ranks = {path: max(1, spectrum.rank_for(energy)) for path, spectrum in spectra.items()}
    plain = plain_lora(file, ranks, weights)
    smaller = plain.file.with_vectors(file.vectors)
    squares = {path: spectrum.norm**2 for path, spectrum in spectra.items()}
    total = sum(squares.values())
    with complete(place, AdapterFileError) as target:
        smaller.save(target)
    return TrimResult(
        out=place,
        method=file.method,
        ranks=ranks,
        energy=sum(plain.energy[path] * square for path, square in squares.items()) / total if total else 1.0,
        least_energy=min(plain.energy.values()),
        bytes_before=sum(tensor.nbytes for tensor in file.tensors.values()),
        bytes_after=sum(tensor.nbytes for tensor in smaller.tensors.values()),
        remarks=use.remarks,
    )


def _weights(name: str, use: AdapterRef) -> dict[str, Tensor]:
    base = load_base(name, "cpu")
    use.check(base)
    return use.file.weights(base.parts)
