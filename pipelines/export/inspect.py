"""The contents of an adapter file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats import read_adapter, tensor_file
from dreamtune.errors import AdapterFileError
from dreamtune.models import load_base


@dataclass(frozen=True)
class LayerReport:
    """The change ΔW of one layer."""

    path: str
    """In the UNet."""
    shape: tuple[int, int]
    """(out, in)"""
    norm: float
    """‖ΔW‖ (Frobenius)."""
    energy: float
    """Share of the sum of ‖ΔW‖² over all layers; 0 if nothing has changed."""
    rank_used: int
    """The smallest rank that keeps 90 % of ‖ΔW‖²."""


@dataclass(frozen=True)
class InspectResult:
    """A file's own description, and its layers in the order of their energy."""

    path: Path
    size: int
    """Bytes of the file."""
    summary: dict[str, Any]
    """See AdapterFile.summary."""
    layers: tuple[LayerReport, ...]
    """Without the base, layers whose ΔW depends on its weights are missing."""
    tool: str
    """What wrote the file: dreamtune and its version, or another tool."""
    state: tuple[str, ...]
    """The state of a method that has several, e.g. whether LoRA-Dash has launched."""
    remarks: tuple[str, ...]
    """What was skipped or assumed when reading another tool's file."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        layers = [vars(layer) | {"shape": list(layer.shape)} for layer in self.layers]
        told = {"written_by": self.tool, "state": list(self.state), "remarks": list(self.remarks)}
        return {"file": str(self.path), "file_bytes": self.size, **self.summary, **told, "changes": layers}


def inspect(path: str | Path, base: str | None = None) -> InspectResult:
    """Read an adapter file, of any known tool, and measure its changes.

    base: the model that it is for; without it layers whose ΔW depends on the base's weights are not measured.

    Raises AdapterFileError when it is missing, damaged or no adapter, BaseModelError for a base that cannot be loaded,
    IncompatibleModelError for one that lacks a layer, or has it with another size or other weights.
    """
    path = Path(path).expanduser()
    imported = read_adapter(path)
    file, weights = imported.file, None
    if base is not None:
        models = load_base(base, "cpu").parts
        for attached in file.attach_parts(models).values():  # which compares the weights with those it was trained on
            attached.detach()
        weights = file.weights(models)
    return InspectResult(
        path=path,
        size=tensor_file(path).stat().st_size,
        summary=file.summary(),
        layers=_measure(path, file, weights),
        tool=imported.tool or f"dreamtune {file.version}",
        state=tuple(file.notes()),
        remarks=imported.remarks,
    )


def _measure(path: Path, file: AdapterFile, weights: Mapping[str, Tensor] | None) -> tuple[LayerReport, ...]:
    try:
        spectra = file.spectra(weights)
    except AdapterFileError as error:  # finite numbers whose product is not
        raise AdapterFileError(f"{path}: {error}") from None
    total = sum(spectrum.norm**2 for spectrum in spectra.values())
    layers = [
        LayerReport(
            path=layer,
            shape=file.layers[layer].shape,
            norm=spectrum.norm,
            energy=spectrum.norm**2 / total if total else 0.0,
            rank_used=spectrum.rank_for(0.9),
        )
        for layer, spectrum in spectra.items()
    ]
    return tuple(sorted(layers, key=lambda report: -report.energy))
