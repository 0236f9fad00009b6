"""What a fusion writes: an adapter file with its metadata, or a changed copy of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.fuse.config import FuseConfig

_ENOUGH = 0.99
"""Share of a layer's ‖ΔW‖² below which a fusion warns that it was truncated."""

if TYPE_CHECKING:
    from dreamtune.adapters import AdapterFile
    from dreamtune.fusion import Fused
    from dreamtune.models import Base


def description(config: FuseConfig, uses: Sequence[AdapterRef], new_tokens: Sequence[str]) -> dict[str, Any]:
    """The file's metadata: tokens and classes of all subjects, those of `new_tokens` first."""
    first, *others = subjects([use.file for use in uses], new_tokens) or [("", "")]
    parts = [
        use.to_dict() | {"method": use.file.method, "trigger": use.file.token, "class": use.file.class_word}
        for use in uses
    ]
    settings = config.model_dump(mode="json", include={"method", "density", "balance", "rank", "seed"})
    zero = {"zero_terminal_snr": True} if any(use.zero_terminal_snr for use in uses) else {}
    bases = sorted({use.file.base for use in uses if use.file.base})
    return {
        "base": bases[0] if bases else "",
        "token": first[0],
        "class_word": first[1],
        "others": tuple(others),
        "training": {"fusion": settings | {"adapters": parts}} | zero,
    }


def subjects(files: Sequence[AdapterFile], new_tokens: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Token and class of every subject of the files that has a token, each token once.

    First come `new_tokens`, which have embeddings in their files, then the other subjects of these files. If none has a
    token, the common class of all.
    """
    found: dict[str, tuple[str, str]] = {word.lower(): (word, "") for word in new_tokens}
    for file in sorted(files, key=lambda it: not it.new_tokens):
        for token, kind in file.subjects:
            known = found.get(token.lower(), (token, ""))
            if token and not known[1]:
                found[token.lower()] = (known[0], kind)
    classes = {kind for file in files for _, kind in file.subjects}
    return list(found.values()) or ([("", classes.pop())] if len(classes) == 1 else [])


def with_energy(fused: Fused) -> AdapterFile:
    """The file, with the share that each layer keeps unless all of them keep everything."""
    if all(share == 1 for share in fused.energy.values()):
        return fused.file
    energy = {path: round(share, 6) for path, share in fused.energy.items()}
    told = fused.file.training["fusion"] | {"energy": energy}
    return replace(fused.file, training=dict(fused.file.training) | {"fusion": told})


def loss_of(energy: Mapping[str, float]) -> str | None:
    """A warning where the layers (path -> share of ‖ΔW‖² that is kept) keep too little, with the remedy."""
    few = {path: share for path, share in energy.items() if share < _ENOUGH}
    if not few:
        return None
    worst = min(few, key=lambda path: few[path])
    layers = "1 layer keeps" if len(few) == 1 else f"{len(few)} of {len(energy)} layers keep"
    return (
        f"{layers} less than {_ENOUGH:.0%} of the fusion, {worst} as little as {few[worst]:.0%}: fuse with --rank full "
        "(in the app: Full rank) to keep all of it in a larger file"
    )


def loss_of_file(training: Mapping[str, Any]) -> str | None:
    """The same warning from a file's training metadata, which is untrusted; None for anything but a fusion."""
    fusion = training.get("fusion")
    energy = fusion.get("energy") if isinstance(fusion, Mapping) else None
    if not isinstance(energy, Mapping):
        return None
    return loss_of({str(path): share for path, share in energy.items() if isinstance(share, float) and 0 <= share <= 1})


def write_checkpoint(file: AdapterFile, base: Base, source: Path, target: Path, any_base: bool) -> None:
    """Write a copy of the checkpoint `source` of `base`, with the file's changes in its weights, to `target`."""
    from dreamtune.pipelines.export.merged import write_merged

    base_weight = {path: weight.clone() for path, weight in file.weights(base.parts).items()}
    for _ in write_merged("checkpoint", file, base, base_weight, source, None, target, any_base=any_base):
        pass  # what is read back is compared by export alone
