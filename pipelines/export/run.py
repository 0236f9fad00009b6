"""From an adapter file to a file or folder of another tool, read back and compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dreamtune.adapters import AdapterFile
from dreamtune.adapters.formats import bundle_embeddings, limits
from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.models import Base, load_base
from dreamtune.pipelines.adapter_ref import AdapterRef, base_name, drawn_by
from dreamtune.pipelines.export.error import LayerError, compare
from dreamtune.pipelines.export.merged import write_merged
from dreamtune.pipelines.export.write import converted, write_adapter, write_embedding
from dreamtune.pipelines.output import check_absent, check_new_file, complete

FORMATS = {
    "lora": "plain LoRA for diffusers and ComfyUI, from any method",
    "peft": "LoRA or DoRA for diffusers; a PEFT folder if --out does not end in .safetensors",
    "kohya": "for kohya's sd-scripts, LyCORIS and ComfyUI: LoRA, DoRA, LoHa, LoKr, full; other methods as plain LoRA",
    "diffusers": "a diffusers folder of the whole base with the adapter merged in",
    "checkpoint": "the base's single file with the adapter merged in",
    "embedding": "only the embeddings of a new token, as a textual inversion file",
}
"""Format -> its output."""
DTYPES = ("fp32", "fp16", "bf16")
_LORA = ("lora", "peft", "kohya")
_WHOLE = ("diffusers", "checkpoint")


@dataclass(frozen=True)
class ExportResult:
    """The output, and how exact it is."""

    out: Path
    format: str
    method: str
    """Of the adapter."""
    written_as: str
    """The method in the output, "weights" for a changed base, or "embeddings"."""
    dtype: str
    layers: tuple[LayerError, ...]
    """Empty if ΔW depends on the base's weights and no base was given to compare with."""
    remarks: tuple[str, ...]
    seconds: float

    @property
    def exact(self) -> bool | None:
        """Whether nothing but rounding separates the output from the adapter; None if it was not compared."""
        return all(layer.energy == 1 for layer in self.layers) if self.layers else None

    @property
    def worst(self) -> dict[str, float | None]:
        """The largest errors and the least energy of all layers; None if they were not compared."""
        return {
            "max_abs_error": max((layer.max_abs for layer in self.layers), default=None),
            "relative_error": max((layer.relative for layer in self.layers), default=None),
            "least_energy_kept": min((layer.energy for layer in self.layers), default=None),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "out": str(self.out),
            "format": self.format,
            "method": self.method,
            "written_as": self.written_as,
            "dtype": self.dtype,
            "exact": self.exact,
            **self.worst,
            "layers": [vars(layer) for layer in self.layers],
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }


def export(
    adapter: str | Path,
    out: str | Path,
    form: str,
    *,
    dtype: str | None = None,
    rank: int | None = None,
    base: str | None = None,
    any_base: bool = False,
    bundle: bool = False,
    token: str | None = None,
) -> ExportResult:
    """Write the adapter in the format `form` (see FORMATS) to `out`, which must not exist, read it and compare.

    dtype: of the tensors written, one of DTYPES; by default fp32, or for a checkpoint its own. rank: make it plain LoRA
    of this rank at most; needed where the format lacks the method and ΔW has no small exact factors. base: the model
    that the adapter is for; a whole base defaults to the adapter's own. any_base: allow one with other weights. bundle:
    put the tokens' own vectors into a file of the format kohya, as A1111 and Forge read them. token: whose vectors the
    format embedding writes, where the adapter has those of several.

    Raises ConfigError for options that do not fit each other or the adapter, AdapterFileError and BaseModelError for
    files that cannot be read or written, IncompatibleModelError for a base that the adapter does not fit.
    """
    began = time.monotonic()
    place = Path(out).expanduser()
    _check_options(form, dtype, rank, bundle, token, place)
    use = AdapterRef.load(str(adapter))
    if not use.as_trained:
        raise ConfigError(
            "a strength cannot be exported: use the file name alone, and set the strength when you load the export"
        )
    file, precision = use.file, _precision(form, dtype)
    remarks = [*use.remarks, *_check_embeddings(file, form, bundle)]
    name = base_name([use]) if base is None and form in _WHOLE else base
    if form == "checkpoint" and not Path(str(name)).expanduser().is_file():
        raise ConfigError(
            f"{name} is not a single-file checkpoint to write a changed copy of: set base to a .safetensors checkpoint"
        )
    model = None if name is None else _load(name, use, any_base, told=base is None)
    # copies: merging changes the weights in place
    weights = None if model is None else {path: w.clone() for path, w in file.weights(model.parts).items()}
    if form == "embedding":
        assert precision is not None
        written_as, energy = "embeddings", dict[str, float]()
        write = partial(write_embedding, file, precision, token)
    elif model is not None and weights is not None and form in _WHOLE:
        written_as, energy = "weights", dict[str, float]()
        source = Path(str(name)).expanduser()
        write = partial(write_merged, form, file, model, weights, source, precision, any_base=any_base)
    else:
        assert precision is not None
        plain, energy = converted(file, form, rank, weights)
        written_as = plain.method
        remarks += limits(plain, form, weights)
        sdxl = None if model is None else model.family == "sdxl"
        beside = bundle_embeddings(file, precision) if bundle else {}
        write = partial(write_adapter, plain, form, energy, precision, weights, sdxl, beside)
    with complete(place, AdapterFileError) as target:
        written = write(target)
        errors = () if form == "embedding" else tuple(compare(file, written, weights, energy))
    if not errors and form != "embedding":
        remarks.append(f"the change of {file.method} depends on the base's weights: use --base to compare the export")
    return ExportResult(
        out=place,
        format=form,
        method=file.method,
        written_as=written_as,
        dtype=dtype or ("as in the base" if form == "checkpoint" else "fp32"),
        layers=errors,
        remarks=tuple(remarks),
        seconds=time.monotonic() - began,
    )


def _check_embeddings(file: AdapterFile, form: str, bundle: bool) -> list[str]:
    """A remark if a format omits the embeddings. Raises ConfigError if nothing, or something else, would remain."""
    if not file.embeddings or form == "embedding":
        return []
    words = " and ".join(map(repr, file.new_tokens))
    if form in _WHOLE:
        raise ConfigError(
            f"the embeddings for {words} cannot be merged into a base: export the adapter as lora, peft or kohya, and "
            "separately as embedding"
        )
    if not file.layers:
        raise ConfigError(f"the adapter contains only embeddings for {words}: use the format embedding")
    if bundle:
        return [f"A1111 and Forge load {words} from this file; diffusers cannot load such a file, not even its LoRA"]
    also = ", or bundle them for A1111 and Forge" if form == "kohya" else ""
    return [f"the embeddings for {words} are not included: export them too, with the format embedding{also}"]


def _check_options(
    form: str, dtype: str | None, rank: int | None, bundle: bool, token: str | None, place: Path
) -> None:
    if form not in FORMATS:
        raise ConfigError(f"format = {form!r} must be one of {', '.join(FORMATS)}")
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"dtype = {dtype!r} must be one of {', '.join(DTYPES)}")
    if rank is not None and form not in _LORA:
        raise ConfigError(f"rank applies only to the formats {', '.join(_LORA)}: omit it with {form}")
    if rank is not None and rank < 1:
        raise ConfigError(f"rank = {rank} must be at least 1")
    if bundle and form != "kohya":
        raise ConfigError(f"embeddings can be bundled only in the format kohya, not in {form}: omit that option")
    if token is not None and form != "embedding":
        raise ConfigError(
            f"token applies only to the format embedding, not to {form}, which is for all tokens: omit it"
        )
    is_file = place.suffix == ".safetensors"
    if form == "diffusers" and is_file:
        raise ConfigError(f"the output {place} must be a folder: use a name without .safetensors")
    if is_file or form in ("lora", "kohya", "checkpoint", "embedding"):
        check_new_file(place)
    else:
        check_absent(place)


def _precision(form: str, dtype: str | None) -> torch.dtype | None:
    """None for that of the tensors themselves."""
    if dtype is None and form == "checkpoint":
        return None
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype or "fp32"]


def _load(name: str, use: AdapterRef, any_base: bool, told: bool) -> Base:
    """The base, on the CPU, and certain to be one that the adapter fits."""
    base = drawn_by(load_base(name, "cpu", local=told), [use])
    use.check(base, any_base)
    return base
