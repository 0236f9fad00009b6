"""Command-line options out of the fields of a config: name, help, type and default stand once, in the config."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from typer import Argument, Option

from dreamtune.config import Config

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Queue = Annotated[bool, Option("--queue", help="Check it, then add it to the queue that `dreamtune worker` runs.")]

Defaults = Callable[[str, FieldInfo], str]
"""(name of a field, the field) -> its default as the help shows it; empty where it has none."""


def options_of(
    config: type[Config],
    *,
    flags: Mapping[str, str] | None = None,
    metavars: Mapping[str, str] | None = None,
    choices: Mapping[str, Iterable[str]] | None = None,
    panels: Mapping[str, str] | None = None,
    argument: str | None = None,
    without: tuple[str, ...] = (),
    defaults: Defaults | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the command's parameter `given` becomes an option for each field of `config`.

    `given` then holds what was set on the command line, by the names of the fields; values are checked by the config
    itself. flags: field -> other names of its option ("--class"; "--a/--b" of a boolean). choices: field -> what it may
    be, where its type does not say so. panels: the first field of each group -> its heading in the help. argument: the
    field that is a positional argument. without: fields that the command sets in its own way; mappings have no option.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        panel, options = None, []
        for name, field in _fields(config).items():
            panel = (panels or {}).get(name, panel)
            kind = _kind(field.annotation)
            if name in without or kind is None:
                continue
            own = (choices or {}).get(name) or _choices(field.annotation)
            about: dict[str, Any] = {"metavar": (metavars or {}).get(name)}
            about["help"] = _help(field, own, (defaults or _default)(name, field))
            if name == argument:
                info: Any = Argument(**about)
            else:
                flag = (flags or {}).get(name) or _flag(name, kind)
                info = Option(*flag.split(), rich_help_panel=panel, **about)
            options.append(_parameter(name, Annotated[kind | None, info], None))
        signature = inspect.signature(command, eval_str=True)
        others = [
            _parameter(it.name, it.annotation, it.default) for it in signature.parameters.values() if it.name != "given"
        ]
        names = [parameter.name for parameter in options]

        def run(**values: Any) -> None:
            given = {name: value for name in names if (value := values.pop(name)) not in (None, [])}
            command(given=given, **values)

        run.__doc__, run.__name__ = command.__doc__, command.__name__
        both = [*others, *options]
        run.__signature__ = signature.replace(parameters=both)  # pyright: ignore[reportFunctionMemberAccess]
        run.__annotations__ = {it.name: it.annotation for it in both}
        return run

    return decorate


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _fields(config: type[Config]) -> dict[str, FieldInfo]:
    """Those that the class adds first, then those that it shares with others."""
    shared = [name for parent in config.__bases__ for name in getattr(parent, "model_fields", {})]
    fields = config.model_fields
    return {name: fields[name] for name in [*(it for it in fields if it not in shared), *shared]}


def _kind(annotation: Any) -> Any:
    """The type that typer parses; None for what no single option can say. The config itself checks the value."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [_kind(it) for it in get_args(annotation) if it is not type(None)]
        return kinds[0] if len(set(kinds)) == 1 else str
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is tuple:
        return list[str]
    return annotation if annotation in (bool, int, float, str, Path) else None


def _choices(annotation: Any) -> list[str]:
    """The words that a field may be; none where it may be other things."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [it for it in get_args(annotation) if it is not type(None)]
        return _choices(kinds[0]) if len(kinds) == 1 else []
    return _choices(get_args(annotation)[0]) if get_origin(annotation) is tuple else []


def _flag(name: str, kind: Any) -> str:
    flag = name.replace("_", "-")
    return f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"


def _help(field: FieldInfo, choices: Iterable[str], default: str) -> str:
    text, unnamed = " ".join((field.description or "").split()), list(choices)
    if not all(re.search(rf"\b{re.escape(it)}\b", text) for it in unnamed):
        text += f" One of {', '.join(unnamed)}."
    return (f"{text} ({default})" if default else text).replace("[", "\\[")  # which rich takes for its markup


def _default(name: str, field: FieldInfo) -> str:
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None or value in ((), "") else str(value)
