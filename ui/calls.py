"""Checks the number and types of the values that a client sends to an endpoint, before anything is done with them."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, get_type_hints

import gradio as gr
from gradio.blocks import BlockFunction
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dreamtune.errors import ConfigError
from dreamtune.text import shown

P = ParamSpec("P")
T = TypeVar("T")
DEVICE = "device"
"""Events of this concurrency id load a base; one of them runs at a time."""
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=DEVICE)


def on_device(action: Callable[P, T]) -> Callable[P, T]:
    """The event `action`, run on the device thread, with the progress and messages of the page that asked."""

    @functools.wraps(action)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()
        return _thread.submit(lambda: context.run(action, *args, **kwargs)).result()

    return run


P = ParamSpec("P")
T = TypeVar("T")
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    dict[str, float]: "a mapping of names to numbers",
    dict[str, Any]: "a mapping of names to values",
    list[str]: "a list of names",
    list[dict[str, Any]]: "a list of uploaded files",
}


def typed(endpoint: Callable[P, T]) -> Callable[P, T]:
    """`endpoint`, which raises ConfigError for an argument of another type than it names, as JSON has them."""
    hints = get_type_hints(endpoint)
    names = list(inspect.signature(endpoint).parameters)
    adapters = {name: TypeAdapter(hints[name], config=_STRICT) for name in names}
    kinds = {name: _kind(hints[name]) for name in names}

    @functools.wraps(endpoint)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items():
            try:
                adapters[name].validate_python(value)
            except ValidationError:
                raise ConfigError(f"{name} = {shown(value)}: must be {kinds[name]}") from None
        return endpoint(*args, **kwargs)

    return run


class Page(gr.Blocks):
    """Blocks in which a call that leaves arguments out has their defaults, and private events have no name."""

    def name_public_alone(self) -> None:
        """Take the names from events that are the page's own: nothing else could call them by those."""
        for event in self.fns.values():
            if event.api_visibility != "public":
                event.api_name = None

    @property
    def endpoints(self) -> frozenset[str]:
        """Names that can be called."""
        return frozenset(event.api_name for event in self.fns.values() if event.api_name)

    def validate_inputs(self, block_fn: BlockFunction, inputs: list[Any]) -> None:
        """Fill `inputs` up to what the event takes. Raises gr.Error for a number of values that it cannot be."""
        public = block_fn.api_visibility == "public" and block_fn.fn is not None
        parameters = list(inspect.signature(block_fn.fn).parameters.values()) if public and block_fn.fn else []
        for parameter in parameters[len(inputs) :]:
            if parameter.default is inspect.Parameter.empty:
                raise _refused(
                    f"{parameter.name} is missing: pass {_kind(get_type_hints(block_fn.fn)[parameter.name])}"
                )
            inputs.append(parameter.default)
        if len(inputs) != len(block_fn.inputs):
            raise _refused(f"{len(inputs)} values were sent, but {len(block_fn.inputs)} expected: see the endpoint")


def _refused(message: str) -> gr.Error:
    return gr.Error(message, title="Error", print_exception=False)


def _kind(hint: Any) -> str:
    """A type in the words of people."""
    options = [option for option in getattr(hint, "__args__", ()) if option is not type(None)]
    return _KINDS.get(hint) or _KINDS[options[0]]
