"""Shows errors on the page with the command line's messages; never a traceback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from html import escape
from typing import Any, ParamSpec, TypeVar

import gradio as gr

from dreamtune.errors import DreamtuneError, Interrupted
from dreamtune.text import bounded, inert

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("dreamtune.ui")


def told(action: Callable[P, T]) -> Callable[P, T]:
    """The event `action` with errors as messages. Toasts are shown as HTML, so all text is escaped."""

    @functools.wraps(action)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except gr.Error:
            raise
        except Interrupted as stopped:
            raise gr.Error(escape(str(stopped)), title="Stopped", print_exception=False) from None
        except DreamtuneError as error:
            raise gr.Error(escape(str(error)), duration=20, title="Error", print_exception=False) from None
        except Exception as fault:
            log.exception("internal error")
            raise gr.Error(
                f"{type(fault).__name__}: this is a bug in dreamtune, see the log in the terminal",
                title="Internal error",
                print_exception=False,
            ) from None

    return run


def note(message: Any) -> None:
    """Say that something was done."""
    gr.Info(escape(bounded(inert(str(message)))), title="Done")


def warn(message: Any) -> None:
    """Show a remark."""
    gr.Warning(escape(bounded(inert(str(message)))), title="Note")
