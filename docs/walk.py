"""`PYTHONPATH=. python -m docs.walk [--check]`: how the folder of images travels through `dreamtune train`.

Trains two steps on the embedded base, follows every call on whose way the folder's path is handed on until training
begins, and writes the calls in their order into docs/architecture.md, between the marks of the table.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dreamtune.pipelines.cli.app import main as dreamtune
from dreamtune.pocket import photographs
from dreamtune.pocket.world import random_subject

ROOT = Path(__file__).parents[1]
PAGE, MARKS = ROOT / "docs" / "architecture.md", ("<!-- walk -->\n", "<!-- /walk -->")
MOST_CALLS, MOST_MODULES = 25, 15
_PACKAGES = tuple(f"{ROOT / folder}{os.sep}" for folder in ("dreamtune", "pipelines", "ui"))
Call = tuple[str, str]
"""(module file from the root, function)."""


class _Begun(BaseException):
    """Training begins: the walk is over."""


def walk() -> list[Call]:
    """Calls that receive the folder, and those that lead to them, in the order in which they are first made."""
    with tempfile.TemporaryDirectory() as name, chdir(name), _own_cache(Path(name)):
        folder = Path("photos")
        folder.mkdir()
        for i, photo in enumerate(photographs(random_subject(random.Random(0), "cat"), 3, seed=0)):
            photo.save(folder / f"{i}.png")
        route: dict[Call, None] = {}
        names = {str(folder), str(folder.resolve())}

        def follow(frame: FrameType, event: str, _: Any) -> None:
            if event != "call" or (call := _call(frame)) is None:
                return
            if call[1] == "fit":
                sys.setprofile(None)
                raise _Begun
            code = frame.f_code
            arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            values = [frame.f_locals.get(it) for it in arguments]
            if any(isinstance(it, (str, Path)) and str(it) in names for it in values):
                route.update(dict.fromkeys(_way(frame)))

        sys.setprofile(follow)
        try:
            dreamtune(["train", str(folder), "--class", "cat", "--steps", "2", "--prior-images", "2"])
        except _Begun:
            pass
        finally:
            sys.setprofile(None)
    return list(route)


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("DREAMTUNE_CACHE")
    os.environ["DREAMTUNE_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        os.environ.pop("DREAMTUNE_CACHE")
        if before is not None:
            os.environ["DREAMTUNE_CACHE"] = before


def _call(frame: FrameType) -> Call | None:
    """None for code beside the packages, and for comprehensions and the like."""
    name, code = frame.f_code.co_filename, frame.f_code.co_qualname
    if not name.startswith(_PACKAGES) or "<" in code:
        return None
    return str(Path(name).relative_to(ROOT)).replace("dreamtune/pipelines/", "pipelines/"), code


def _way(frame: FrameType | None) -> list[Call]:
    """The calls that led here, the outermost first."""
    calls: list[Call] = []
    while frame is not None:
        if (call := _call(frame)) is not None:
            calls.append(call)
        frame = frame.f_back
    return calls[::-1]


def table(calls: list[Call]) -> str:
    """In Markdown."""
    modules = len({module for module, _ in calls})
    rows = "".join(f"| {i} | `{module}` | `{name}` |\n" for i, (module, name) in enumerate(calls, 1))
    return f"{len(calls)} calls in {modules} modules:\n\n| | module | function |\n| --- | --- | --- |\n{rows}"


def main() -> int:
    """Entry point; 1 where the walk is longer than it may be."""
    calls = walk()
    text = PAGE.read_text(encoding="utf-8")
    if MARKS[0] not in text:
        raise SystemExit(f"{PAGE} has no marks {MARKS[0].strip()} and {MARKS[1]} for the table")
    before, _, rest = text.partition(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}{table(calls)}{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")
    print(table(calls))
    return int(len(calls) > MOST_CALLS or len({module for module, _ in calls}) > MOST_MODULES)


if __name__ == "__main__":
    sys.exit(main())
