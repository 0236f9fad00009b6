"""Options of methods, and how the optimizer treats their parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from dreamtune.errors import ConfigError


class _AsRank(float):
    """No number of its own: the default of an alpha that is to be the rank."""

    def __repr__(self) -> str:
        return "rank"


_AS_RANK = _AsRank()
LATER = {"later": True}
"""Metadata of options that files of earlier versions do not have: there they have their defaults."""


@dataclass(frozen=True)
class MethodConfig:
    """Options that every method has; methods add theirs in a subclass. Raises ConfigError for impossible values."""

    rank: int = 8
    """Rank of the trained factors."""
    alpha: float = _AS_RANK
    """The change is scaled by alpha/rank, or by alpha/√rank with `rslora`; default: the rank."""
    rslora: bool = False
    """Rank-stabilized scaling (Kalajdzievski, arXiv 2312.03732)."""
    dropout: float = 0.0
    """Dropout: share of the input's elements that the adapter does not see in training."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if default is _AS_RANK:  # the rank stands before it, and was checked
                default = 0.0
                if value is _AS_RANK:
                    object.__setattr__(self, field.name, value := float(self.rank))
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                try:
                    object.__setattr__(self, field.name, value := float(value))
                except OverflowError:
                    raise ConfigError(
                        f"{field.name} has {len(str(value)):,} digits: it must be a finite number"
                    ) from None
            if type(value) is not type(default):
                raise ConfigError(f"{field.name} = {value!r} must be of type {type(default).__name__}")
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank} must be at least 1")
        if not 0 < self.alpha < float("inf"):
            raise ConfigError(f"alpha = {self.alpha} must be positive and finite")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout} must be at least 0 and less than 1")

    @property
    def scale(self) -> float:
        """The factor s on the product of the trained factors."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def with_rank(self, rank: int) -> Self:
        """The same with another rank, and alpha in proportion so that the scale stays. Raises ConfigError."""
        exponent = 0.5 if self.rslora else 1.0
        return replace(self, rank=rank, alpha=self.alpha * (max(rank, 1) / self.rank) ** exponent)

    trained_by: ClassVar[tuple[str, ...]] = ("rank", "alpha", "rslora", "dropout")
    """Options that say nothing of what the tensors mean, beside their shapes and the scale."""

    def form(self) -> dict[str, Any]:
        """The options that decide what the tensors mean: adapters of one form and of equal shapes can trade them."""
        return {name: value for name, value in self.to_dict().items() if name not in self.trained_by}

    def too_short(self, steps: int) -> str | None:
        """What of the method a training of `steps` optimizer steps would never come to, and what to do; None if none.

        Asked before a training, which is refused then.
        """
        return None

    def for_convolution(self, channels: int) -> Self:
        """The same for a convolution of more than one place, on so many channels in, whose ΔW is (out, in·kh·kw)."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ParameterOptions:
    """How the optimizer is to treat a parameter."""

    lr_ratio: float = 1.0
    """Its learning rate, as a multiple of the training's."""
    weight_decay: bool = True
    """Whether the training's weight decay acts on it."""
    is_up: bool = False
    """Whether it is B of a product BA that is the change, to which LoRA+ gives a larger learning rate."""
