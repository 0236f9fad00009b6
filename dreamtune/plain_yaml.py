"""YAML of plain values only: all that a recipe needs, and nothing that a few lines could blow up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dreamtune.errors import ConfigError, first_line
from dreamtune.storage import read_regular
from dreamtune.text import bounded, shown

LARGEST = 1 << 20
"""Bytes of a recipe."""
DEEPEST = 20
"""Lists and mappings within each other."""
MOST = 10_000
"""Values in a recipe: it takes a second to read them."""
_LONGEST_NUMBER = 100
"""Characters of a number: beyond some thousand Python reads and writes none, and base 60 takes time by their square."""
_PREFIX = "tag:yaml.org,2002:"
_KINDS = {"null": "null", "bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values.

    Raises ConfigError for a file that cannot be read, is over :data:`LARGEST`, not UTF-8, not YAML or not a mapping.
    """
    try:
        text = read_regular(path, LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot read the recipe {path}: {reason}") from None
    try:
        values = parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"{path} is not valid YAML{where}: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path} must contain 'key: value' lines, not {type(values).__name__}")
    return values


def parse_yaml(text: str) -> Any:
    """The plain value that YAML `text` stands for. Raises yaml.YAMLError, and nothing else, for any other text."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, LookupError, ArithmeticError) as error:  # of its scanner, as for "\\U99999999"
        raise yaml.YAMLError(first_line(error)) from None


class _Loader(yaml.SafeLoader):
    """YAML of plain values in which a key that stands twice is an error: the first would be lost in silence.

    Dates are text. Aliases are refused: a few lines of them stand for gigabytes.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class has it)
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":value", ":merge"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth, self._nodes = 0, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node. Raises yaml.YAMLError for an alias, below :data:`DEEPEST` and beyond :data:`MOST`."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor[:40]} is an alias, which is not supported: write the value out",
                problem_mark=event.start_mark,
            )
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        if self._nodes > MOST:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST} values", problem_mark=event.start_mark)
        self._depth += 1
        self._nodes += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. Raises yaml.YAMLError for what is no plain value, or none of its kind."""
        kind = node.tag.removeprefix(_PREFIX)
        if kind not in (*_KINDS, "seq", "map"):
            raise yaml.MarkedYAMLError(
                problem=f"{shown(node.tag)} is not a plain value: remove the tag", problem_mark=node.start_mark
            )
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            if kind in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
                raise ValueError
            return super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError):
            problem = f"{shown(node.value)} is not {_KINDS.get(kind, 'a valid value')}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping. Raises yaml.YAMLError with the line of a key that repeats another."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{bounded(key.value, 80)} is set twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)
