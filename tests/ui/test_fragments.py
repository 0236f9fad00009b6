"""Pieces of the page: what comes from outside is shown and never acts."""

import re
from pathlib import Path
from typing import Any

from dreamtune.pipelines.jobs.job import Job
from dreamtune.ui import fragments
from tests.tiny_models import pictures
from tests.ui.evil import HTML


def job(**changes: Any) -> Job:
    values: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    values |= {"id": "1", "kind": "train", "title": "cat", "state": "running", "out": Path("x"), "created": 0.0}
    values |= {"resumable": False} | changes
    return Job(**values)


def inert(page: str) -> bool:
    return "<img src=x" not in page and not re.search(r"[$`]|\{\{", page)


def test_text_is_shown_and_never_acts(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", 1)
    for page in (
        fragments.text(HTML),
        fragments.hint(HTML),
        fragments.progress(job(title=HTML, message=HTML, phase=HTML)),
        fragments.plot(HTML, [(HTML, [(1, 0.5), (2, 0.4)])]),
        fragments.button(HTML, HTML, HTML, HTML),
        fragments.table([HTML], [], HTML),
        fragments.tiles([(folder / "0.png", HTML, [(HTML, HTML)])]),
        fragments.tiles([(tmp_path / "none.png", HTML, ())]),
    ):
        assert inert(page), page


def test_progress_says_what_is_known() -> None:
    running = fragments.progress(job(phase="train", done=30, total=120, eta=65.0))
    assert 'aria-valuenow="25"' in running and "training 30 of 120" in running and "1:05 left" in running
    assert "number 2 in the queue" in fragments.progress(job(state="queued", position=2))
    assert 'aria-valuenow="100"' in fragments.progress(job(state="done", started=0.0, finished=61.0))
    assert "no room" in fragments.progress(job(state="failed", message="no room"))


def test_a_curve_needs_two_points() -> None:
    assert fragments.plot("Loss", [("loss", [(1, 0.5)])]) == ""
    shown = fragments.plot("Loss", [("loss", [(1, 0.5), (2, 0.25)])])
    assert shown.count("<polyline") == 1 and "0.25" in shown
