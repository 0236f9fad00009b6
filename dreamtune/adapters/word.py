"""A new word of a base's vocabulary, with embeddings that are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamtune.errors import IncompatibleModelError

from .base import ParameterOptions
from .parts import TEXT_ENCODERS


class ExtendedEmbedding(nn.Embedding):
    """The embeddings of a vocabulary, and after its last number those of new words.

    Installed by swapping `__class__`, so that the parameter, its name and isinstance stay as they were. The new vectors
    are no part of the module: its own state_dict() and parameters() do not change.
    """

    _added: list[nn.Parameter]

    @staticmethod
    def install(layer: nn.Embedding) -> ExtendedEmbedding:
        """Turn `layer` into an ExtendedEmbedding in place."""
        if not isinstance(layer, ExtendedEmbedding):
            assert type(layer) is nn.Embedding, type(layer)
            layer.__class__ = ExtendedEmbedding
            cast(ExtendedEmbedding, layer)._added = []
        return cast(ExtendedEmbedding, layer)

    def forward(self, input: Tensor) -> Tensor:
        """Embeddings (..., dim) of the numbers `input` (...)."""
        place = input - self.num_embeddings
        known = super().forward(input.clamp(max=self.num_embeddings - 1))
        # rounded to the model's precision, as they are where another tool has them in its matrix
        new = F.embedding(place.clamp(min=0), torch.cat(list(self._added)).to(known.dtype))
        return torch.where((place >= 0).unsqueeze(-1), new, known)

    def add(self, vectors: nn.Parameter) -> None:
        """Give `vectors` (n, dim) the next n numbers."""
        self._added.append(vectors)

    def numbers(self, vectors: nn.Parameter) -> range:
        """The numbers that `vectors` have now."""
        start = self.num_embeddings
        for added in self._added:
            if added is vectors:
                return range(start, start + len(added))
            start += len(added)
        raise AssertionError("these vectors are not here")

    def remove(self, vectors: nn.Parameter) -> None:
        """Take `vectors` out; without any the layer is what it was."""
        self._added = [added for added in self._added if added is not vectors]
        if not self._added:
            del self._added
            cast(nn.Embedding, self).__class__ = nn.Embedding

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> ExtendedEmbedding:
        """Move the new vectors with the layer; their precision stays."""
        super()._apply(fn, recurse)
        for added in self._added:
            added.data = added.data.to(self.weight.device)
        return self


class NewToken(nn.Module):
    """A word that a base's text encoders are taught: n vectors for each (Gal et al., arXiv 2208.01618).

    In prompts it stands for the n vectors in a row, one token each. It is put on with :meth:`install`; what prompts
    hold is the affair of the base (see models.Base.add_token).
    """

    def __init__(self, word: str, vectors: Mapping[str, Tensor]) -> None:
        """vectors: `text_encoder` or `text_encoder_2` -> (n, dim) initial values, fp32."""
        super().__init__()
        self.word = word
        self.vectors = nn.ParameterDict({part: nn.Parameter(value.clone()) for part, value in vectors.items()})
        self.active = True
        """Whether prompts that hold the word mean its vectors; if not, they are read as the base reads them."""
        self._layers: dict[str, ExtendedEmbedding] = {}

    def install(self, encoders: Mapping[str, nn.Module]) -> None:
        """Add the vectors to the vocabularies of the text encoders, by the names of their parts.

        Raises IncompatibleModelError, changing nothing, if an encoder is missing or of another width.
        """
        layers = {}
        for part, vectors in self.vectors.items():
            layer = _vocabulary(part, encoders)
            if layer.embedding_dim != vectors.shape[1]:
                raise IncompatibleModelError(
                    f"the embeddings of {self.word!r} are {vectors.shape[1]} wide, the {part}'s {layer.embedding_dim}: "
                    "they are for another base"
                )
            layers[part] = layer
        surplus = [part for part in TEXT_ENCODERS if part in encoders and part not in layers]
        if surplus:
            raise IncompatibleModelError(
                f"there are no embeddings of {self.word!r} for the {surplus[0]}: they are for another base"
            )
        for part, layer in layers.items():
            self._layers[part] = ExtendedEmbedding.install(layer)
            vectors = self.vectors[part]
            vectors.data = vectors.data.to(layer.weight.device)
            self._layers[part].add(vectors)

    @property
    def installed(self) -> bool:
        """False before :meth:`install` and after :meth:`detach`."""
        return bool(self._layers)

    def numbers(self, part: str) -> range:
        """The numbers of its tokens in the vocabulary of `part`."""
        return self._layers[part].numbers(self.vectors[part])

    def detach(self) -> None:
        """Take the vectors out of the text encoders, which are then what they were. Again it does nothing."""
        for part, layer in self._layers.items():
            layer.remove(self.vectors[part])
        self._layers = {}

    def parameter_groups(self) -> dict[ParameterOptions, list[nn.Parameter]]:
        """The vectors; without weight decay, which would draw them away from all words."""
        return {ParameterOptions(weight_decay=False): list(self.parameters())}


def _vocabulary(part: str, encoders: Mapping[str, nn.Module]) -> nn.Embedding:
    if part not in encoders:
        raise IncompatibleModelError(
            f"the adapter has embeddings for a {part}, which this base does not have: use another base"
        )
    return cast(Any, encoders[part]).get_input_embeddings()
