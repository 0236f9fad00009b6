"""Calls of dreamtune, in a process of its own, of which none may take long, take much memory, or end it.

Run as a program it is that process: see :class:`Bounded`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import signal
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipelines.fork_server import ForkServer, import_all

SECONDS = 10
"""What a call may take: of the processor's time, so that other work beside it plays no part."""
WAITING = 60
"""What it may take on the clock: one that waits for ever uses no processor."""
MEMORY = 3 << 29
"""Bytes that a call may ask for; what is imported beforehand takes half a GB more."""
LONGEST = 1000
"""Characters of a message."""
COMMAND_LINE = "tests.bounded:command_line"


@dataclass(frozen=True)
class Outcome:
    """What a call did."""

    code: int
    """Its exit code, or minus the signal that ended it."""
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    """Of the processor's time."""

    @property
    def fault(self) -> str | None:
        """What no input may bring about; None if there is nothing."""
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if self.code not in (0, 2):
            return f"exit code {self.code}: {self.told}"
        if "Traceback" in self.err:
            return f"a traceback: {self.told}"
        if self.code == 2 and not self.err.startswith("Error: "):
            return f"not one error: {self.told}"
        if self.code and len(self.err.rstrip("\n")) > LONGEST:
            return f"a message of {len(self.err)} characters: {self.err[:100]!r}"
        odd = {c for c in self.out + self.err if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")}
        return f"prints {sorted(odd)}: {(self.out + self.err)[:200]!r}" if odd else None

    @property
    def told(self) -> str:
        """The last line of what it wrote."""
        return ((self.err or self.out).strip().splitlines() or [""])[-1][:300]


class Bounded(ForkServer):
    """Makes one call at a time; one that goes beyond the bounds is ended, and the next finds a new process."""

    def __init__(self) -> None:
        super().__init__("tests.bounded")

    def run(self, *arguments: str | Path) -> Outcome:
        """`dreamtune arguments...`."""
        return self.call(COMMAND_LINE, *arguments)

    def call(self, function: str, *arguments: str | Path) -> Outcome:
        """Call `module:function` with texts; it prints like a command and returns an exit code."""
        self.ask(json.dumps([function, list(map(str, arguments))]))
        return Outcome(**json.loads(self.answer()))


def command_line(*arguments: str) -> int:
    """A command."""
    from dreamtune.pipelines.cli.app import main

    return main(arguments)


def _serve() -> None:
    import_all()
    null = os.open(os.devnull, os.O_RDWR)
    answers = os.dup(1)
    os.dup2(null, 1)  # what libraries print is no answer
    while True:
        child = os.fork()
        if not child:
            _answer(answers)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return
        _write(answers, {"code": status if status < 0 else 1, "err": "the process ended itself"})


def _answer(answers: int) -> None:
    """Make calls until there are none, or one ends this process."""
    limit = _mapped() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while line := _line(0):
        module, _, name = (request := json.loads(line))[0].partition(":")
        function = getattr(importlib.import_module(module), name)
        out, err, began = io.StringIO(), io.StringIO(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = function(*request[1])
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        told = {"out": out.getvalue(), "err": err.getvalue(), "seconds": round(time.process_time() - began, 3)}
        _write(answers, {"code": code, **told})


def _line(file: int) -> bytes:
    """One line, read without a buffer: a process after this one would miss what stood in it."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(file, 1 << 16)):
        line += more
    return line


def _write(file: int, answer: dict[str, Any]) -> None:
    os.write(file, json.dumps(answer).encode() + b"\n")


def _mapped() -> int:
    """Bytes of this process' address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _serve()
