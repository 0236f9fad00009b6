"""What an adapter file says about itself, and its form as the strings of a safetensors header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Self

from dreamtune import __version__
from dreamtune.errors import AdapterFileError, ConfigError

from .base import Adapter, MethodConfig
from .fingerprint import Fingerprint
from .methods import METHODS
from .vocabulary import Sizes, embeddings_of, further_embeddings_of

DAMAGED = "the file is damaged or was edited: copy it again"
"""Remedy in errors about content that no dreamtune wrote."""
MOST_WEIGHTS = 2**25
"""Of one layer. The largest of SD 1.x, 2.x and XL has 29,491,200 (a convolution of 2560 channels to 1280), and a dense
ΔW of that size takes 270 MB in fp64: a file of some MB, of Kronecker products for example, could ask for far more."""
MOST_WEIGHTS_IN_ALL = 2**32
"""Of all layers of one file: XL and its text encoders have 3.4 billion. It bounds the time that measuring takes."""
MOST_LAYERS = 10_000
"""Of one file. XL and its text encoders have 1,058 that can be adapted."""
_BASES = {
    768: ("stable-diffusion-v1", "sd_v1"),
    1024: ("stable-diffusion-v2", "sd_v2"),
    2048: ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
}
"""Width of the text embeddings -> name in ModelSpec, name in kohya's metadata."""


@dataclass(frozen=True)
class LayerRecord:
    """The layer that one adapter belongs on."""

    shape: tuple[int, int]
    """(out, in) of ΔW; in is in·kh·kw of a convolution, whose weight (out, in, kh, kw) counts as that matrix."""
    fingerprint: Fingerprint | None = None
    """Of the weight it was trained on; None if that is not known, as in files of other tools."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method in which this layer deviates from the rest, for example its rank and alpha."""
    kernel: tuple[int, int] | None = None
    """(kh, kw) of a convolution; None for a linear layer. A kernel of 1x1 is the same change as none."""

    def __post_init__(self) -> None:
        """Check that the size is one that there is, and that the kernel divides the inputs."""
        if math.prod(self.shape) > MOST_WEIGHTS:
            rows, columns = self.shape
            raise AdapterFileError(f"a layer of {rows}x{columns} is larger than in any known base: {DAMAGED}")
        if self.kernel is not None and self.shape[1] % math.prod(self.kernel):
            raise AdapterFileError(
                f"a kernel of {self.kernel[0]}x{self.kernel[1]} does not divide {self.shape[1]} inputs: {DAMAGED}"
            )

    @property
    def window(self) -> tuple[int, int]:
        """The kernel, (1, 1) of a linear layer: equal ones are the same kind of change."""
        return self.kernel or (1, 1)

    def to_json(self) -> list[Any]:
        """As it stands in the header."""
        own: list[Any] = [dict(self.options)] if self.options or self.kernel else []
        own += [list(self.kernel)] if self.kernel else []
        hashes = (self.fingerprint.float16, self.fingerprint.bfloat16) if self.fingerprint else (None, None)
        return [*self.shape, *hashes, *own]

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """Undo :meth:`to_json`; None for what it never gives."""
        match value:
            case [int(rows), int(columns), str(float16), str(bfloat16), *own] if rows > 0 < columns:
                fingerprint = Fingerprint(float16, bfloat16)
            case [int(rows), int(columns), None, None, *own] if rows > 0 < columns:
                fingerprint = None
            case _:
                return None
        match own:
            case []:
                return cls((rows, columns), fingerprint)
            case [dict(options)]:
                return cls((rows, columns), fingerprint, options)
            case [dict(options), [int(height), int(width)]] if height > 0 < width:
                return cls((rows, columns), fingerprint, options, (height, width))
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """Everything about an adapter but its tensors; enough to rebuild it and to know what it is for."""

    method: str
    """A name in METHODS."""
    config: MethodConfig
    layers: Mapping[str, LayerRecord]
    """Path in the UNet -> the layer there; `text_encoder.` or `text_encoder_2.` and the path in it for theirs, which
    leaves out the `text_model.` that some of transformers' classes begin with."""
    base: str
    """Id of the base it was trained on: "pocket", a hub id, the name of a folder or file, or "" if not known."""
    token: str
    """The word that calls the subject; of several subjects the first one."""
    class_word: str
    training: Mapping[str, Any]
    """Settings of the training, plain JSON values."""
    others: tuple[tuple[str, str], ...] = ()
    """Words and classes of further subjects, as a fused file has them."""
    embeddings: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Text encoder -> (n, dim) of the embeddings that the token has as a new word of its vocabulary, if any."""
    further_embeddings: Mapping[str, Sizes] = field(default_factory=dict)
    """Word of `others` -> the same for that word. None has some unless the token has."""
    version: str = __version__
    """Of the dreamtune that wrote it."""

    @property
    def subjects(self) -> tuple[tuple[str, str], ...]:
        """Word and class of each subject, as far as they are known; one of the two may be ""."""
        return tuple(it for it in ((self.token, self.class_word), *self.others) if any(it))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words that call its subjects."""
        return tuple(token for token, _ in self.subjects if token)

    @property
    def new_tokens(self) -> dict[str, Sizes]:
        """Word -> text encoder -> (n, dim), of all words that have embeddings, the token first."""
        return {self.token: self.embeddings, **self.further_embeddings} if self.embeddings else {}

    @property
    def called(self) -> str:
        """How prompts call its subjects: "sks dog, zwx cat"; empty if that is not known."""
        return ", ".join(" ".join(filter(None, it)) for it in self.subjects)

    @property
    def rank(self) -> int:
        """Rank of the trained factors."""
        return self.config.rank

    def blank(self, path: str) -> Adapter:
        """A new adapter for the layer `path`, its tensors not set. Raises AdapterFileError if they do not fit."""
        record = self.layers[path]
        try:
            return METHODS[self.method](replace(self.config, **record.options), *record.shape)
        except (ConfigError, TypeError) as error:
            raise AdapterFileError(f"layer {path}: {error}; {DAMAGED}") from None

    def to_header(self) -> dict[str, str]:
        """Our own keys, and those that other tools show. No folder of this machine gets in."""
        layers = {path: layer.to_json() for path, layer in self.layers.items()}
        own = {"dreamtune.embeddings": _to_json(dict(self.embeddings))} if self.embeddings else {}
        if self.further_embeddings:
            own["dreamtune.further_embeddings"] = _to_json({w: dict(it) for w, it in self.further_embeddings.items()})
        own |= {"dreamtune.subjects": _to_json([(self.token, self.class_word), *self.others])} if self.others else {}
        base, training = _without_folders(self.base), _without_folders(dict(self.training))
        architecture, kohya_base = self._architecture(base)
        return {
            "dreamtune.version": self.version,
            "dreamtune.method": self.method,
            "dreamtune.config": _to_json(self.config.to_dict()),
            "dreamtune.layers": _to_json(layers),
            "dreamtune.base": base,
            "dreamtune.trigger": self.token,
            "dreamtune.class": self.class_word,
            "dreamtune.training": _to_json(training),
            **own,
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{architecture}/{self.method}",
            "modelspec.title": self.called or self.method,
            "modelspec.trigger_phrase": self.called,
            "ss_network_module": f"dreamtune.{self.method}",
            "ss_network_dim": str(self.config.rank),
            "ss_network_alpha": str(self.config.alpha),
            "ss_base_model_version": kohya_base,
        }

    @classmethod
    def from_header(cls, header: Mapping[str, str]) -> Self:
        """Undo :meth:`to_header`. Raises AdapterFileError naming the key that is missing or wrong."""
        method, layers = _text(header, "method"), _mapping(header, "layers")
        if len(layers) > MOST_LAYERS:
            raise AdapterFileError(f"it has {len(layers)} layers, more than any known base: {DAMAGED}")
        if method not in METHODS:
            known = ", ".join(METHODS)
            raise AdapterFileError(
                f"dreamtune.method is {method!r}, not one of {known}: use a newer version of dreamtune"
            )
        return cls(
            method=method,
            config=_config(method, _mapping(header, "config")),
            layers={path: _layer(path, value) for path, value in layers.items()},
            base=_text(header, "base"),
            token=_text(header, "trigger"),
            class_word=_text(header, "class"),
            training=_mapping(header, "training"),
            others=_others(header),
            embeddings=embeddings_of(header),
            further_embeddings=further_embeddings_of(header, _others(header)),
            version=_text(header, "version"),
        )

    def _architecture(self, base: str) -> tuple[str, str]:
        """What ModelSpec and kohya call the kind of base, told by the width of the keys of cross-attention."""
        widths = (layer.shape[1] for path, layer in self.layers.items() if path.endswith("attn2.to_k"))
        return _BASES.get(next(widths, 0), (base, base))


def _text(header: Mapping[str, str], name: str) -> str:
    value = header.get(f"dreamtune.{name}")
    if not isinstance(value, str):
        raise AdapterFileError(f"the metadata lacks dreamtune.{name}: {DAMAGED}")
    return value


def _mapping(header: Mapping[str, str], name: str) -> dict[str, Any]:
    text = _text(header, name)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # the former also of a number with thousands of digits
        value = None
    if not isinstance(value, dict):
        raise AdapterFileError(f"dreamtune.{name} is not a JSON object: {DAMAGED}")
    return value


def _config(method: str, options: dict[str, Any]) -> MethodConfig:
    kind = METHODS[method].config_class
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if not field.metadata.get("later")}
    if options.keys() - known:
        surplus = ", ".join(sorted(options.keys() - known))
        raise AdapterFileError(f"{method} has no option {surplus}: use a newer version of dreamtune")
    if needed - options.keys():
        raise AdapterFileError(f"dreamtune.config lacks {', '.join(sorted(needed - options.keys()))}: {DAMAGED}")
    try:
        return kind(**options)
    except ConfigError as error:
        raise AdapterFileError(f"dreamtune.config: {error}; {DAMAGED}") from None


def _layer(path: str, value: Any) -> LayerRecord:
    record = LayerRecord.from_json(value)
    if record is None:
        raise AdapterFileError(f"dreamtune.layers has no size and fingerprint for {path}: {DAMAGED}")
    return record


def _others(header: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The subjects after the first, of a file that has several."""
    if "dreamtune.subjects" not in header:
        return ()
    try:
        subjects = [(token, kind) for token, kind in json.loads(_text(header, "subjects"))]
    except (ValueError, TypeError, RecursionError):
        subjects = []
    texts = all(isinstance(it, str) for subject in subjects for it in subject)
    if not texts or subjects[:1] != [(_text(header, "trigger"), _text(header, "class"))]:
        raise AdapterFileError(f"dreamtune.subjects does not begin with the first subject's token and class: {DAMAGED}")
    return tuple(subjects[1:])


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _without_folders(value: Any) -> Any:
    """Cut absolute paths down to their last part, so that a shared file tells nothing about the machine."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if isinstance(value, PurePosixPath | PureWindowsPath):
        value = str(value)
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute():
                return kind(value).name
    return value
