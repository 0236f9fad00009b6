"""What an adapter file holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile


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
    """Of methods whose ΔW has small exact factors; the others' needs the base's weights, and is left out."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        layers = [vars(layer) | {"shape": list(layer.shape)} for layer in self.layers]
        return {"file": str(self.path), "file_bytes": self.size, **self.summary, "changes": layers}


def inspect(path: str | Path) -> InspectResult:
    """Read an adapter file and measure its changes, without the base.

    Raises AdapterFileError when it is missing, damaged, no adapter, or of another tool, which is then named.
    """
    from dreamtune.adapters import AdapterFile

    path = Path(path).expanduser()
    file = AdapterFile.load(path)
    return InspectResult(path, path.stat().st_size, file.summary(), _measure(file))


def _measure(file: AdapterFile) -> tuple[LayerReport, ...]:
    spectra = file.spectra()
    total = sum(spectrum.norm**2 for spectrum in spectra.values())
    layers = [
        LayerReport(
            path=path,
            shape=file.layers[path].shape,
            norm=spectrum.norm,
            energy=spectrum.norm**2 / total if total else 0.0,
            rank_used=spectrum.rank_for(0.9),
        )
        for path, spectrum in spectra.items()
    ]
    return tuple(sorted(layers, key=lambda layer: -layer.energy))
