"""Base of everything attached to a model: it can be switched off, and detaches at the end of a block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from torch import nn


class Attachment(nn.Module, ABC):
    """Changes of a model that act inside it, at a strength. As a context manager it detaches at the end of the block.

    Its `state_dict()` holds the changes alone.
    """

    @property
    @abstractmethod
    def strength(self) -> float:
        """The factor on the changes; 0 is exactly the base."""

    @strength.setter
    @abstractmethod
    def strength(self, value: float) -> None: ...

    @abstractmethod
    def detach(self) -> None:
        """Detach the changes: the model is then bit for bit what it was."""

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the block the model is exactly the base; the strength is then what it was."""
        before = self.strength
        self.strength = 0
        try:
            yield
        finally:
            self.strength = before

    def forward(self, *inputs: object) -> None:
        """Not callable: the changes act inside the model. Raises TypeError."""
        raise TypeError("call the model itself: adapters act inside it")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()
