"""Adapters on disk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dreamtune.errors import AdapterFileError, ConfigError, IncompatibleModelError

from . import container
from .attach import AttachedAdapter
from .base import Adapter, MethodConfig
from .description import DAMAGED, MOST_WEIGHTS_IN_ALL, Description, LayerRecord
from .fingerprint import Fingerprint
from .layer import kernel_of, pristine_weight
from .parts import PARTS, UNET, holder, join_part, layer_at, split_part
from .spectrum import Spectrum
from .vocabulary import is_embedding, tensor_name, tensor_names
from .word import NewToken


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterFile(Description):
    """A complete adapter: description and tensors. It may come from a training, a file or a computation.

    Raises AdapterFileError when the tensors are not those that method, config and layers ask for, or not finite.
    """

    tensors: Mapping[str, Tensor]
    """`<layer path>.<tensor name>` -> tensor on the CPU, as in the adapters' own state_dict(); `embedding.<part>` ->
    the token's embeddings for that text encoder, and `embedding.<part>.<word>` those of a further word."""

    def __post_init__(self) -> None:
        """Check the tensors, without making adapters in memory."""
        if not self.layers and not self.embeddings:
            raise AdapterFileError("it changes no layer: train it again")
        if sum(math.prod(record.shape) for record in self.layers.values()) > MOST_WEIGHTS_IN_ALL:
            raise AdapterFileError(f"its layers have more weights than any known base: {DAMAGED}")
        with torch.device("meta"):
            expected = {
                f"{path}.{name}": tensor
                for path in self.layers
                for name, tensor in self.blank(path).state_dict().items()
            }
            sizes = tensor_names(self.embeddings, self.further_embeddings)
            expected |= {name: torch.empty(shape) for name, shape in sizes.items()}
        _check_names(set(self.tensors), set(expected))
        for name, tensor in self.tensors.items():
            _check_tensor(name, tensor, expected[name])

    @classmethod
    def from_attached(
        cls,
        attached: AttachedAdapter,
        *,
        base: str,
        token: str,
        class_word: str,
        training: Mapping[str, Any],
        text_encoders: Mapping[str, AttachedAdapter] | None = None,
        word: NewToken | None = None,
    ) -> Self:
        """A snapshot of an adapter that is on a UNet; its strength and whether it is merged play no part.

        base: id of the model; token, class_word: how prompts call the subject; training: settings to record, plain
        JSON values; text_encoders: `text_encoder` or `text_encoder_2` -> the adapter on it, of the same method; word:
        the token as a new word with embeddings. Raises AdapterFileError for NaN or infinite values, for unlike
        methods, or for a detached adapter.
        """
        layers, tensors = {}, {}
        for part, on_model in {UNET: attached, **(text_encoders or {})}.items():
            if not on_model.attached:
                raise AdapterFileError("the adapter has been detached: make its file before detaching")
            if part not in PARTS or on_model.method != attached.method:
                raise AdapterFileError(
                    f"{on_model.method} on {part!r} cannot share a file with {attached.method} on the UNet: "
                    f"use a single method, on {' and '.join(PARTS)}"
                )
            for path_in_model, layer, adapter in on_model.layers():
                path = join_part(part, path_in_model)
                options = _deviations(adapter.config, attached.config)
                layers[path] = LayerRecord(adapter.shape, Fingerprint.of(layer.base_weight), options, kernel_of(layer))
                for name, tensor in adapter.state_dict().items():
                    tensors[f"{path}.{name}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        vectors = {} if word is None else {part: it.detach().cpu().clone() for part, it in word.vectors.items()}
        tensors |= {tensor_name(part): tensor for part, tensor in vectors.items()}
        return cls(
            method=attached.method,
            config=attached.config,
            layers=layers,
            base=base,
            token=token,
            class_word=class_word,
            training=training,
            embeddings={part: (tensor.shape[0], tensor.shape[1]) for part, tensor in vectors.items()},
            tensors=tensors,
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file. Raises AdapterFileError when it is missing, damaged, of another tool or another version."""
        path = Path(path).expanduser()
        content = container.read(path)
        try:
            return cls.from_content(*content)
        except AdapterFileError as error:
            raise AdapterFileError(f"{path}: {error}") from None

    @classmethod
    def from_content(cls, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Self:
        """The adapter of a file's tensors and metadata. Raises AdapterFileError when they do not fit together."""
        return cls(**vars(Description.from_header(header)), tensors=tensors)

    def save(self, path: str | Path) -> None:
        """Write the file completely or not at all; equal content gives equal bytes. Raises AdapterFileError."""
        container.write(Path(path).expanduser(), self.tensors, self.to_header())

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        return container.to_bytes(self.tensors, self.to_header())

    def adapters(self) -> dict[str, Adapter]:
        """Layer path -> a new adapter with the file's values, on the CPU, in evaluation mode, fp32 or better."""
        return {path: self._adapter(path) for path in self.layers}

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of `unet`, `text_encoder` and `text_encoder_2` are changed."""
        found = {split_part(path)[0] for path in self.layers}
        return tuple(part for part in PARTS if part in found)

    def part(self, name: str) -> Self:
        """The same with the layers of one part only, under their paths in that model. Raises ConfigError."""
        if name not in self.parts:
            raise ConfigError(f"the adapter does not change {name!r}, only {' and '.join(self.parts)}")
        layers, tensors = {}, {}
        for path, record in self.layers.items():
            part, inner = split_part(path)
            if part == name:
                layers[inner] = record
                tensors |= {f"{inner}.{key}": self.tensors[f"{path}.{key}"] for key in self.blank(path).state_dict()}
        return replace(self, layers=layers, tensors=tensors, embeddings={}, further_embeddings={})

    @property
    def vectors(self) -> dict[str, dict[str, Tensor]]:
        """Word -> text encoder -> embeddings (n, dim) as they are stored; empty if no word has any of its own."""
        found = {
            word: {part: self.tensors[tensor_name(part, word)] for part in sizes}
            for word, sizes in self.further_embeddings.items()
        }
        own = {part: self.tensors[tensor_name(part)] for part in self.embeddings}
        return {self.token: own, **found} if own else {}

    def words(self) -> list[NewToken]:
        """The words that have embeddings in the file, not yet installed, the token first; most files have none."""
        return [NewToken(word, {part: it.float() for part, it in own.items()}) for word, own in self.vectors.items()]

    def with_vectors(self, vectors: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """The same with embeddings as :attr:`vectors` has them in place of its own; each word is one of its tokens."""
        sizes = {word: {part: (it.shape[0], it.shape[1]) for part, it in own.items()} for word, own in vectors.items()}
        tensors = {name: it for name, it in self.tensors.items() if not is_embedding(name)}
        for word, own in vectors.items():
            name = None if word == self.token else word
            tensors |= {tensor_name(part, name): it for part, it in own.items()}
        embeddings = sizes.pop(self.token, {})
        return replace(self, tensors=tensors, embeddings=embeddings, further_embeddings=sizes)

    def attach(self, model: nn.Module, strength: float = 1.0, *, any_base: bool = False) -> AttachedAdapter:
        """Attach an adapter that changes only the UNet to `model`, the UNet of the base it was trained on.

        Raises ConfigError if it changes text encoders too or has embeddings (see models.Base.attach), and
        IncompatibleModelError, leaving the model as it was, when a layer is missing or has another size, or when its
        weight is not the one the adapter was trained on; `any_base` allows the latter. Where that weight is not known
        it is not compared.
        """
        if self.embeddings:
            words = " and ".join(map(repr, self.new_tokens))
            raise ConfigError(f"the adapter has its own embeddings for {words}: attach it to the whole base")
        if self.parts != (UNET,):
            raise ConfigError(f"the adapter changes {' and '.join(self.parts)}: use attach_parts, or attach one part()")
        try:
            layers = {path: _layer_of(record, model, path) for path, record in self.layers.items()}
            if not any_base:
                self._check_weights(layers)
            return AttachedAdapter(model, self.adapters(), self.method, self.config, strength)
        except IncompatibleModelError as error:
            origin = f"was trained on the base {self.base!r}" if self.base else "does not record its base"
            raise IncompatibleModelError(f"{error} (the adapter {origin})") from None

    def attach_parts(
        self, models: Mapping[str, nn.Module], strength: float = 1.0, *, any_base: bool = False
    ) -> dict[str, AttachedAdapter]:
        """Attach each part to its model in `models` (`unet`, `text_encoder`, ...): part -> the adapter there.

        Embeddings are not among them: see :meth:`words`, and models.Base.attach, which does all that a file asks for.
        Raises IncompatibleModelError as :meth:`attach` does, or for a part without a model; then nothing is attached.
        """
        attached: dict[str, AttachedAdapter] = {}
        try:
            for name in self.parts:
                model = _model_of(name, models)
                attached[name] = self.part(name).attach(model, strength, any_base=any_base)
        except Exception:
            for done in attached.values():
                done.detach()
            raise
        return attached

    def weights(self, models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Layer path -> its base weight (out, in) on the CPU, of the models that :meth:`attach_parts` takes.

        That of a convolution is (out, in·kh·kw). Raises IncompatibleModelError for a layer that is missing or of
        another size.
        """
        weights = {}
        for path, record in self.layers.items():
            name, inner = split_part(path)
            weights[path] = pristine_weight(_layer_of(record, _model_of(name, models), inner)).detach().cpu()
        return weights

    def spectra(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, Spectrum]:
        """Layer path -> singular values of ΔW.

        Layers whose ΔW depends on their weight need it (see :meth:`weights`); without it they are left out.
        """
        spectra = {}
        for path, record in self.layers.items():
            adapter = self._adapter(path)
            stand_in = torch.empty(record.shape, device="meta")
            factors = adapter.low_rank(stand_in)
            if factors is not None:
                spectra[path] = Spectrum.of_factors(*factors)
            elif not adapter.uses_weight and (values := adapter.singular_values(stand_in)) is not None:
                spectra[path] = Spectrum(values)
            elif weights is not None or not adapter.uses_weight:
                change = adapter.delta_weight(stand_in if weights is None else weights[path])
                spectra[path] = Spectrum.of_matrix(change)
        return spectra

    def notes(self) -> list[str]:
        """What people should know of the adapters' state (see Adapter.note), and in how many layers it is so."""
        counts = Counter(note for path in self.layers if (note := self._adapter(path).note()))
        return [f"{note}, in {count} of {len(self.layers)} layers" for note, count in counts.most_common()]

    def summary(self) -> dict[str, Any]:
        """What the file holds, as plain values; `layers` and `parameters` are numbers, `bytes` those of the tensors."""
        with torch.device("meta"):
            parameters = sum(p.numel() for path in self.layers for p in self.blank(path).parameters())
        sizes = tensor_names(self.embeddings, self.further_embeddings)
        parameters += sum(count * width for count, width in sizes.values())
        return {
            "method": self.method,
            "config": self.config.to_dict(),
            "base": self.base,
            "token": self.token,
            "class": self.class_word,
            "subjects": [{"token": token, "class": kind} for token, kind in self.subjects],
            "layers": len(self.layers),
            "parameters": parameters,
            "embeddings": {part: list(shape) for part, shape in self.embeddings.items()},
            "further_embeddings": {
                word: {part: list(shape) for part, shape in sizes.items()}
                for word, sizes in self.further_embeddings.items()
            },
            "bytes": sum(tensor.nbytes for tensor in self.tensors.values()),
            "training": dict(self.training),
            "version": self.version,
        }

    def _adapter(self, path: str) -> Adapter:
        adapter = self.blank(path)
        state = {name: self.tensors[f"{path}.{name}"] for name in adapter.state_dict()}
        wide = {_widened(tensor).dtype for tensor in state.values() if tensor.is_floating_point()}
        dtype = torch.float64 if torch.float64 in wide else torch.float32  # one for all, which they are multiplied in
        # assign keeps fp64; the copy keeps training from writing into this object.
        state = {name: t.to(dtype, copy=True) if t.is_floating_point() else t.clone() for name, t in state.items()}
        adapter.load_state_dict(state, assign=True)
        return adapter.eval()

    def _check_weights(self, layers: Mapping[str, nn.Module]) -> None:
        known = {path: record.fingerprint for path, record in self.layers.items() if record.fingerprint}
        others = [path for path, fingerprint in known.items() if not fingerprint.matches(pristine_weight(layers[path]))]
        if others:
            raise IncompatibleModelError(
                f"{len(others)} of {len(layers)} adapted layers have other weights here, first {others[0]}: "
                "load the adapter's own base, or allow any (any_base=True)"
            )


def _layer_of(record: LayerRecord, model: nn.Module, path: str) -> nn.Module:
    return layer_at(model, path, record.shape, record.window)


def _model_of(part: str, models: Mapping[str, nn.Module]) -> nn.Module:
    if part not in models:
        raise IncompatibleModelError(f"the adapter changes a {part}, which this base does not have: use another base")
    return holder(part, models[part])


def _deviations(own: MethodConfig, common: MethodConfig) -> dict[str, Any]:
    usual = common.to_dict()
    return {name: value for name, value in own.to_dict().items() if value != usual[name]}


def _check_names(has: set[str], needs: set[str]) -> None:
    for what, names in (("lacks {} tensors", needs - has), ("has {} extra tensors", has - needs)):
        if names:
            raise AdapterFileError(f"it {what.format(len(names))}, first {min(names)}: {DAMAGED}")


def _check_tensor(name: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape:
        has, needs = ("x".join(map(str, shape)) or "one number" for shape in (tensor.shape, expected.shape))
        raise AdapterFileError(f"the tensor {name} is {has}, not {needs}: {DAMAGED}")
    if tensor.is_floating_point() != expected.is_floating_point():
        raise AdapterFileError(f"the tensor {name} is of type {tensor.dtype}: {DAMAGED}")
    if tensor.is_floating_point() and not _widened(tensor).isfinite().all():
        raise AdapterFileError(f"the tensor {name} contains NaN or infinity: train it again with a lower learning rate")


def _widened(tensor: Tensor) -> Tensor:
    """At least fp32, in which adapters are trained."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
