"""What another tool's file contains, inferred from its tensors' names and sizes before any of them is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dreamtune.errors import AdapterFileError

from ..description import MOST_LAYERS
from .kinds import beside, foreign_method, other_content, split_tensor_name
from .names import is_pooled_projection, layer_path
from .others import model_of

READABLE = "LoRA, DoRA, LoHa, LoKr and full changes"
BUNDLE = "bundle_emb."
"""Beginning of the names of embeddings that come with an adapter."""
_MOST_TENSORS = 8 * MOST_LAYERS
_LONGEST_NAME = 500
_POOLED = "text projections"


@dataclass(frozen=True)
class Contents:
    """The tensors of a file in order."""

    layers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Layer's name -> what a tensor is to it (see split_tensor_name) -> the tensor's name."""
    paths: dict[str, str] = field(default_factory=dict)
    """Layer's name -> its path in an adapter file."""
    bundled: list[str] = field(default_factory=list)
    """Names of tensors of embeddings."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Kind, in plural -> names of the layers and tensors of that kind that are not read."""

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Contents:
        """Of a file with tensors of these names and shapes.

        Raises AdapterFileError for what cannot be read: methods not known here, layers of other models, and no adapter
        at all; each by its name.
        """
        if len(shapes) > _MOST_TENSORS:
            raise AdapterFileError(f"it has {len(shapes)} tensors, more than an adapter of any known base")
        found, unknown = cls(), []
        for name, shape in shapes.items():
            if len(name) > _LONGEST_NAME:
                raise AdapterFileError(f"a tensor's name has {len(name)} characters ({name[:40]}...): copy it again")
            pieces, kind = split_tensor_name(name), beside(name)
            if name.startswith(BUNDLE):
                found.bundled.append(name)
            elif kind is not None or (pieces and pieces[1] == "change" and len(shape) < 2):
                found.left_out.setdefault(kind or "biases", []).append(name)
            elif pieces is not None:
                found.layers.setdefault(pieces[0], {})[pieces[1]] = name
            else:
                unknown.append(name)
        found._check_known(unknown, shapes)
        found._place()
        return found

    def _check_known(self, unknown: list[str], shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse what is not understood; whole layers of the base, which PEFT saves beside an adapter, are left out."""
        method = foreign_method(unknown)
        if method == "OFT" and any("oft_blocks" in name and len(shapes[name]) == 4 for name in unknown):
            method = "BOFT"
        if method is not None:
            raise AdapterFileError(f"its method is {method}, which is not supported: only {READABLE} are")
        if not self.layers:
            other = other_content(shapes) or "contains no adapter: use the adapter.safetensors of a run"
            raise AdapterFileError(f"it {other}")
        rest = [name for name in unknown if not (name.endswith(".weight") and layer_path(name.removesuffix(".weight")))]
        if rest:
            raise AdapterFileError(
                f"{len(rest)} tensors are of unknown kinds, first {min(rest)}: only {READABLE} can be read"
            )
        if unknown:
            self.left_out.setdefault("whole layers", []).extend(unknown)

    def _place(self) -> None:
        """Find each layer's path."""
        strange = []
        for name in list(self.layers):
            path = layer_path(name)
            if path is not None:
                self.paths[name] = path
            elif is_pooled_projection(name):
                del self.layers[name]
                self.left_out.setdefault(_POOLED, []).append(name)
            else:
                strange.append(name)
        if strange:
            model = model_of(strange)
            what = f"a layer of {model}" if model else "not a layer of Stable Diffusion"
            raise AdapterFileError(
                f"{min(strange)} is {what}: only adapters of Stable Diffusion 1.x, 2.x and XL can be read, "
                "use a tool that supports it"
            )
