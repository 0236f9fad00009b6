"""Reading adapter files: dreamtune's own, and those of PEFT, diffusers, kohya, LyCORIS, ComfyUI and OneTrainer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamtune.errors import AdapterFileError, DreamtuneError

from .. import container
from ..description import LayerRecord
from ..file import AdapterFile
from ..methods import METHODS
from ..parts import split_part
from .bundled import Bundled
from .contents import Contents
from .kernels import text_widths
from .layers import ForeignLayer, MagnitudesOfChannels
from .mixed import Converted, in_one_method
from .settings import PeftSettings
from .sources import Source
from .splits import common_split

_OF_CHANNELS = "convolutions with magnitudes per input channel"


@dataclass(frozen=True)
class Imported:
    """An adapter and what there is to say about where it came from."""

    file: AdapterFile
    tool: str | None
    """The tool that wrote it; None for dreamtune."""
    remarks: tuple[str, ...] = ()
    """What was left out or assumed."""


def read_adapter(path: str | Path) -> Imported:
    """Read an adapter file of any of the known tools, or a folder that one of them saved (see Source).

    A file of another tool says nothing certain about the base: no layer has a fingerprint, and `base` is "". Norms,
    biases, projections of pooled texts and the like are left out and counted in the remarks. Embeddings that come with
    it become the vectors of the words that they are named after.

    Raises AdapterFileError when it is missing, damaged, incomplete, a pickle, of no known tool, method or model, mixes
    methods in a way that none of them can express, or has a layer under two names with unlike tensors.
    """
    path = Path(path).expanduser()
    source = Source.of(path)
    with _named(path):
        settings = None if source.config is None else PeftSettings.from_folder(source.config.parent)
    tensors, metadata, tool = container.read_any(source.tensors, Contents.of)  # whose errors name the file
    with _named(path):
        if tool is None:
            return Imported(AdapterFile.from_content(tensors, metadata), None)
        return _convert(tensors, metadata, tool, settings or PeftSettings.from_metadata(metadata))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before errors that do not begin with it."""
    try:
        yield
    except DreamtuneError as error:
        text = str(error)
        raise AdapterFileError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def _convert(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], tool: str, settings: PeftSettings) -> Imported:
    contents = Contents.of({name: tensor.shape for name, tensor in tensors.items()})
    layers = _by_path(contents, tensors)
    linear = [layer for layer, _ in layers.values() if layer.method == "lokr" and layer.kernel is None]
    common = common_split([(layer.rank, layer.tensors) for layer in linear])
    found: dict[str, Converted] = {}
    assumed = 0
    for path, (layer, given) in layers.items():
        alpha, rslora, certain = _scaling(layer, path, given, settings, tool)
        assumed += not certain
        options, own = layer.fitted(alpha, rslora, common)
        found[path] = Converted(layer.method, LayerRecord(layer.shape, None, options, layer.kernel), own)
    widths = text_widths({path: layer.record for path, layer in found.items()})
    bundled = Bundled.of({name: tensors[name] for name in contents.bundled}, widths)
    if not found:
        raise AdapterFileError(f"it changes no supported layer, only {' and '.join(contents.left_out)}")
    converted, mixed = in_one_method(found)
    remarks = [
        f"{len(names)} {kind} are left out, first {min(names)}: images may differ from those of other tools"
        for kind, names in sorted(contents.left_out.items())
    ]
    if assumed:
        remarks.append(f"the file has no alpha for {assumed} layers: the rank is assumed")
    training: dict[str, Any] = {
        "imported_from": tool,
        "layers_left_out": sum(len(names) for names in contents.left_out.values()),
    }
    if metadata.get("ss_zero_terminal_snr") == "True":  # of sd-scripts
        training["zero_terminal_snr"] = True
    file = _assemble(converted, bundled, metadata, training)
    return Imported(file, tool, (*remarks, *mixed, *bundled.remarks))


def _assemble(
    found: Mapping[str, Converted], bundled: Bundled, metadata: Mapping[str, str], training: dict[str, Any]
) -> AdapterFile:
    """The file; the commonest options are its own, and other layers tell theirs."""
    method = next(iter(found.values())).method
    usual, _ = Counter(tuple(sorted(it.record.options.items())) for it in found.values()).most_common(1)[0]
    layers = {}
    for path, it in found.items():
        options = dict(it.record.options.items() - set(usual))
        layers[path] = LayerRecord(it.record.shape, None, options, it.record.kernel)
    tensors = {f"{path}.{key}": t.contiguous() for path, it in found.items() for key, t in it.tensors.items()}
    words = list(bundled.vectors)
    token = words[0] if words else metadata.get("modelspec.trigger_phrase", "")
    file = AdapterFile(
        method=method,
        config=METHODS[method].config_class(**dict(usual)),
        layers=layers,
        base="",
        token=token if isinstance(token, str) else "",
        class_word="",
        training=training,
        others=tuple((word, "") for word in words[1:]),
        tensors=tensors,
    )
    return file.with_vectors(bundled.vectors)


def _by_path(contents: Contents, tensors: Mapping[str, Tensor]) -> dict[str, tuple[ForeignLayer, Tensor | None]]:
    """Path of each layer -> the layer and its alpha. Some files name a layer in two ways, with the same tensors."""
    layers: dict[str, tuple[ForeignLayer, Tensor | None]] = {}
    grouped = {
        name: {role: tensors[tensor] for role, tensor in roles.items()} for name, roles in contents.layers.items()
    }
    for name, own in grouped.items():
        path = contents.paths[name]
        if path in layers:
            other = layers[path][0].name
            if not _same(own, grouped[other]):
                raise AdapterFileError(
                    f"{name} and {other} are the same layer, but differ: save the file with only one of them"
                )
            continue
        try:
            layers[path] = (ForeignLayer.of(name, path, own), own.get("alpha"))
        except MagnitudesOfChannels:
            contents.left_out.setdefault(_OF_CHANNELS, []).append(name)
    return layers


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and bool((one[key].float() == other[key].float()).all()) for key in one
    )


def _scaling(
    layer: ForeignLayer, path: str, alpha: Tensor | None, settings: PeftSettings, tool: str
) -> tuple[float, bool, bool]:
    """Alpha, whether it is over √rank, and whether the file says so."""
    part, inner = split_part(path)
    said = settings.scaling(part, inner, layer.rank)
    if said is not None:
        return *said, True
    without = layer.whole and tool != "PEFT"  # LyCORIS and ComfyUI apply no alpha then
    if alpha is None or without:
        return float(layer.rank), False, without
    if alpha.numel() != 1 or alpha.is_complex():
        raise AdapterFileError(f"{layer.name}.alpha is not a single number: copy the file again")
    value = float(alpha)
    if not math.isfinite(value):
        raise AdapterFileError(f"{layer.name}.alpha is {value}: copy the file again")
    return value or float(layer.rank), False, True  # kohya and LyCORIS take 0 for the rank
