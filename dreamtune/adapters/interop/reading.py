"""Adapters out of files: dreamtune's own, and LoRA, DoRA, LoHa and LoKr of PEFT, diffusers, kohya, LyCORIS, ComfyUI."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.errors import AdapterFileError, DreamtuneError

from .. import container
from ..description import LayerRecord
from ..file import AdapterFile
from ..methods import METHODS
from ..parts import PARTS, split_part
from .kinds import split_tensor_name
from .layers import ForeignLayer, lokr_split
from .names import layer_path
from .settings import PeftSettings

_CONVOLUTION = re.compile(
    r"(conv\w*|skip_connection|in_layers[._]\d|out_layers[._]\d|[._]op"
    r"|(lora_unet_|lycoris_|diffusion_model\.)(input_blocks[._]0[._]0|out[._]2))$"
)
_POOLED = re.compile(r"(^|[._])text_projection$")
_PROJECTION = re.compile(r"\.attentions\.\d+\.proj_(in|out)$")
_SD1_TEXT_WIDTH = 768


@dataclass(frozen=True)
class Imported:
    """An adapter and what there is to say about where it came from."""

    file: AdapterFile
    tool: str | None
    """The tool that wrote it; None for dreamtune."""
    remarks: tuple[str, ...] = ()
    """What was left out or assumed."""


def read_adapter(path: str | Path) -> Imported:
    """Read an adapter file of any of the known tools; of PEFT also the folder that it saves.

    A file of another tool says nothing certain about the base: no layer has a fingerprint, and `base` is "".
    Convolutions, and the projections of pooled texts, cannot be adapted here; they are left out and counted in the
    remarks.

    Raises AdapterFileError when it is missing, damaged, incomplete, a pickle, of no known tool or method, mixes
    methods, or has a layer under two names with unlike tensors.
    """
    path = Path(path).expanduser()
    source = tensor_file(path)
    peft_folder = source != path
    tensors, metadata, tool = container.read_any(source)
    try:
        if tool is None:
            return Imported(AdapterFile.from_content(tensors, metadata), None)
        settings = PeftSettings.from_folder(path) if peft_folder else PeftSettings.from_metadata(metadata)
        return _convert(tensors, metadata, tool, settings)
    except DreamtuneError as error:
        raise AdapterFileError(f"{path}: {error}") from None


def tensor_file(path: Path) -> Path:
    """The file with the tensors: `path` itself, or the one in the folder that PEFT saved."""
    return path / "adapter_model.safetensors" if (path / "adapter_config.json").is_file() else path


def _convert(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], tool: str, settings: PeftSettings) -> Imported:
    grouped = _grouped(tensors)
    left_out = _left_out(grouped)
    layers = _by_path({name: own for name, own in grouped.items() if name not in left_out})
    common = lokr_split([layer for layer, _ in layers.values() if layer.method == "lokr"])
    found: dict[str, tuple[ForeignLayer, dict[str, Any], dict[str, Tensor]]] = {}
    assumed = 0
    for path, (layer, given) in layers.items():
        alpha, rslora, certain = _scaling(layer, path, given, settings, tool)
        assumed += not certain
        found[path] = (layer, *layer.fitted(alpha, rslora, common))
    remarks = [
        f"{count} of {len(grouped)} layers are {kind}, {min(n for n in left_out if left_out[n] == kind)} the first: "
        "they are left out, and pictures may differ from those of other tools"
        for kind, count in sorted(Counter(left_out.values()).items())
    ]
    if assumed:
        remarks.append(f"the alpha of {assumed} layers is not in the file: it was taken to be the rank")
    methods = Counter(layer.method for layer, _, _ in found.values())
    if len(methods) > 1:
        mix = ", ".join(f"{method} in {count} layers" for method, count in methods.most_common())
        raise AdapterFileError(f"it mixes methods ({mix}): only files of one method can be read")
    return Imported(_assemble(found, metadata, tool, Counter(left_out.values())), tool, tuple(remarks))


def _assemble(
    found: Mapping[str, tuple[ForeignLayer, dict[str, Any], dict[str, Tensor]]],
    metadata: Mapping[str, str],
    tool: str,
    left_out: Mapping[str, int],
) -> AdapterFile:
    if not found:
        raise AdapterFileError(f"it changes no layer that can be adapted here, only {' and '.join(sorted(left_out))}")
    method = next(iter(found.values()))[0].method
    usual, _ = Counter(tuple(sorted(options.items())) for _, options, _ in found.values()).most_common(1)[0]
    layers = {
        path: LayerRecord(layer.shape, None, dict(options.items() - set(usual)))
        for path, (layer, options, _) in found.items()
    }
    trigger = metadata.get("modelspec.trigger_phrase", "")
    zero = {"zero_terminal_snr": True} if metadata.get("ss_zero_terminal_snr") == "True" else {}  # of sd-scripts
    return AdapterFile(
        method=method,
        config=METHODS[method].config_class(**dict(usual)),
        layers=layers,
        base="",
        trigger=trigger if isinstance(trigger, str) else "",
        class_word="",
        training={"imported_from": tool, "layers_left_out": sum(left_out.values())} | zero,
        tensors={
            f"{path}.{key}": tensor.contiguous() for path, (_, _, own) in found.items() for key, tensor in own.items()
        },
    )


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer name -> what -> tensor."""
    grouped: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        pieces = split_tensor_name(name)
        if pieces is None:
            unknown.append(name)
        else:
            grouped.setdefault(pieces[0], {})[pieces[1]] = tensor
    if unknown:
        raise AdapterFileError(
            f"{len(unknown)} tensors are of no known kind, {min(unknown)} the first: "
            "only LoRA, DoRA, LoHa and LoKr can be read"
        )
    return grouped


def _left_out(grouped: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Name of each layer that cannot be adapted here -> what such layers are."""
    widths = {_width(own) for name, own in grouped.items() if (layer_path(name) or "").endswith("attn2.to_k")}
    sd1 = _SD1_TEXT_WIDTH in widths  # there proj_in and proj_out are convolutions: factors of LoHa, LoKr hide it

    def convolves(name: str, own: Mapping[str, Tensor]) -> bool:
        shaped = "kernel" in own or any(t.ndim > 2 for key, t in own.items() if key != "magnitude")
        return shaped or bool(_CONVOLUTION.search(name)) or (sd1 and bool(_PROJECTION.search(layer_path(name) or "")))

    kinds = {
        name: "projections of pooled texts" if _POOLED.search(name) else "convolutions" if convolves(name, own) else ""
        for name, own in grouped.items()
    }
    return {name: kind for name, kind in kinds.items() if kind}


def _width(own: Mapping[str, Tensor]) -> int:
    """Size of a layer's input, with LoKr the product of those of both matrices."""
    roles = ("down", "down1", "w1", "lokr_down1", "w2", "lokr_down2")
    return math.prod(size for role in roles if role in own for size in own[role].shape[-1:])


def _by_path(grouped: Mapping[str, Mapping[str, Tensor]]) -> dict[str, tuple[ForeignLayer, Tensor | None]]:
    """Path of each layer -> the layer and its alpha. Some files name a layer in two ways, with the same tensors."""
    layers: dict[str, tuple[ForeignLayer, Tensor | None]] = {}
    for name, own in grouped.items():
        path = layer_path(name)
        if path is None:
            raise AdapterFileError(f"{name} is no layer of Stable Diffusion 1.x, 2.x or XL: use the tool it is for")
        if path in layers:
            other = layers[path][0].name
            if not _same(own, grouped[other]):
                raise AdapterFileError(f"{name} and {other} are one layer, but differ: save the file with one of them")
            continue
        layers[path] = (ForeignLayer.of(name, own), own.get("alpha"))
    return layers


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and bool((one[key] == other[key]).all()) for key in one
    )


def _scaling(
    layer: ForeignLayer, path: str, alpha: Tensor | None, settings: PeftSettings, tool: str
) -> tuple[float, bool, bool]:
    """Alpha, whether it is over √rank, and whether the file says so."""
    part, _ = split_part(path)
    inner = layer.name.removeprefix("base_model.model.")
    inner = inner.removeprefix(f"{part}.") if part in PARTS else inner
    said = settings.scaling(part, inner, layer.rank)
    if said is not None:
        return *said, True
    without = layer.whole and tool != "PEFT"  # LyCORIS and ComfyUI apply no alpha then
    if alpha is None or without:
        return float(layer.rank), False, without
    if alpha.numel() != 1:
        raise AdapterFileError(f"{layer.name}.alpha is not one number: copy the file again")
    value = float(alpha)
    if not math.isfinite(value) or value < 0:
        raise AdapterFileError(f"{layer.name}.alpha is {value}: copy the file again")
    return value or float(layer.rank), False, True  # kohya and LyCORIS take 0 for the rank
