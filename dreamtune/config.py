"""Settings as pydantic models that report every mistake in one short ConfigError."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from dreamtune.errors import ConfigError
from dreamtune.plain_yaml import read_yaml
from dreamtune.text import shown

_MISTAKES = 5
"""How many are reported at once."""
_LONGEST, _LARGEST, _DEEPEST = 10_000, 2**53, 10
"""Characters of a text and entries of a list, the largest number, and lists within lists: far beyond what is of use."""


class Config(BaseModel):
    """Base of every settings model: frozen, closed to unknown keys, readable from YAML.

    Constructing one from bad values raises :class:`ConfigError` (never pydantic's own error), with the
    nearest known key suggested for an unknown one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=False)

    other_names: ClassVar[Mapping[str, str]] = {}
    """Name of a setting in other tools -> its key here, to be suggested."""
    answers: ClassVar[Mapping[str, str]] = {}
    """Setting of other tools that does not exist here -> what to use instead."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Former name of a setting -> its name: still read, see :attr:`remarks`."""
    _former: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def answer_to(cls, key: str, value: Any) -> str | None:
        """What to use instead of the bad `value` of `key`, if that is known."""
        return None

    def __init__(self, **values: Any) -> None:
        for key, value in values.items():
            _check_plain(key, value)
        former = tuple(key for key in self.renamed if key in values)
        for key in former:
            if self.renamed[key] in values:
                raise ConfigError(f"{key} is now called {self.renamed[key]}, which is set too: remove {key}")
            values[self.renamed[key]] = values.pop(key)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from None
        self._former = former

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of how these settings were given: names that have changed."""
        return tuple(f"{key} is now called {self.renamed[key]}: the old name still works" for key in self._former)

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> Self:
        """Read a YAML recipe; `overrides` win over the file. Raises ConfigError naming the file."""
        return cls.from_mapping({**read_yaml(path), **overrides}, source=str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "the settings") -> Self:
        """Build from a mapping whose origin `source` is named in errors."""
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    def changed(self, **values: Any) -> Self:
        """Return a copy with `values` replaced, validated like a new one; untouched defaults stay untouched."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | values)

    def to_yaml(self) -> str:
        """The complete settings, defaults included, as YAML that :meth:`load` reads back to an equal model."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def suggest(word: str, known: list[str]) -> str:
    """Return "; did you mean 'x'?" for the known word nearest to `word`, or the list of all if none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


_ASIDE = re.compile(r", unable to .*")
"""Why pydantic could not read a value, which says no more than what it should be."""
_PLAIN = {
    "valid tuple": "list, e.g. [a, b]",
    "valid dictionary": "mapping of names to values",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "valid integer": "whole number",
    "valid number": "number",
    "Input is not a valid path for <class 'pathlib.Path'>": "a path",
}
"""pydantic's words for types, and those of people who write YAML."""


def explain(error: ValidationError, model: type[Config]) -> str:
    """Turn pydantic's report into one line: each wrong key, what is wrong, and the nearest right key."""
    by_key: dict[str, list[dict[str, Any]]] = {}
    for item in error.errors(include_url=False):
        # "key", or "key.entry" of a list or mapping; beyond that the place names the types that were tried
        field = model.model_fields.get(str(item["loc"][0])) if item["loc"] else None
        depth = 2 if field is None or get_origin(field.annotation) in (tuple, list, dict) else 1
        by_key.setdefault(".".join(str(part) for part in item["loc"][:depth]), []).append(dict(item))
    told = [_explain_one(key, items, model) for key, items in list(by_key.items())[:_MISTAKES]]
    return "; ".join([*told, *([f"and {len(by_key) - _MISTAKES} more errors"] if len(by_key) > _MISTAKES else [])])


def _check_plain(key: str, value: object, depth: int = 0) -> None:
    """Raise ConfigError for text that no file can hold or be called by, and for what is larger than any setting."""
    if isinstance(value, (str, Path)):
        try:
            if b"\0" in os.fsencode(value):
                raise ValueError
        except ValueError:
            raise ConfigError(f"{key} = {shown(str(value))} contains an invalid character: remove it") from None
        if len(str(value)) > _LONGEST:
            raise ConfigError(f"{key} has {len(str(value))} characters: use at most {_LONGEST}")
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise ConfigError(f"{key} = {shown(value)} is too large for a setting: use a smaller number")
    elif isinstance(value, (Mapping, list, tuple)):
        if len(value) > _LONGEST or depth > _DEEPEST:
            raise ConfigError(f"{key} is too long or too deeply nested for a setting: see the documentation")
        for entry in [*value.keys(), *value.values()] if isinstance(value, Mapping) else value:
            _check_plain(key, entry, depth + 1)


def _explain_one(key: str, items: list[dict[str, Any]], model: type[Config]) -> str:
    item = items[0]
    if item["type"] == "extra_forbidden":
        if key in model.answers:
            return f"unknown setting {key!r}: {model.answers[key]}"
        ours = model.other_names.get(key)
        return f"unknown setting {key!r}" + (
            f"; it is called {ours!r} here" if ours else suggest(key, list(model.model_fields))
        )
    if item["type"] == "missing":
        return f"{key} is missing: {model.model_fields[key].description or 'it has no default'}"
    if item["type"] == "value_error":  # raised by our own validators, which already say what to do
        return str(item["ctx"]["error"])
    if answer := model.answer_to(key, item["input"]):
        return f"{key} = {item['input']!r}: {answer}"
    wanted = " or ".join(_ASIDE.sub("", item["msg"].removeprefix("Input should be ")) for item in items)
    for theirs, ours in _PLAIN.items():
        wanted = wanted.replace(theirs, ours)
    return f"{key} = {shown(item['input'])}: must be {wanted}"
