"""What clients send: every argument of every endpoint, left out and of every wrong kind."""

import asyncio
import inspect
from typing import Any

import gradio as gr
import pytest

from dreamtune.pipelines.jobs.queue import Jobs
from dreamtune.pipelines.workspace import Workspace
from dreamtune.ui.app import build
from dreamtune.ui.calls import Page
from dreamtune.ui.context import App
from tests.ui.conftest import Idle

WRONG = [5, 1.5, True, None, "text", ["x"], [1], [{}], [{"path": 5}], {"x": "y"}, {"x": None}, {"base": 5}, {}]
WRONG += [10**400, float("nan"), "x" * 10**5, [[]] * 10**4, {"x": {"y": []}}, {"x": 10**400}, {"steps": [1]}]
ARGUMENTS = {
    "upload": [[], "x"],
    "check": ["none", "cat", "sks", "pocket"],
    "train": ["none", "cat", {}, "x"],
    "generate": [" ", {"none": 1}, 1, 0, {}],
    "fuse": [{"none": 1, "no": 1}, "sum", "x", 0.5],
    "analyze": [["none"], "x"],
    "job": ["99"],
    "stop": ["99"],
    "resume": ["99"],
    "cancel": ["99"],
}
"""Each cannot be done as it stands: whatever is wrong beside that, the answer is a refusal."""
NEEDED = dict.fromkeys(ARGUMENTS, 1) | {"train": 2}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    workspace = Workspace(tmp_path_factory.mktemp("page") / "home")
    workspace.make()

    async def built() -> Page:
        return build(App(workspace, Jobs(workspace.jobs), Idle(workspace.jobs)))

    return asyncio.run(built())  # outside of a loop Gradio begins one and leaves it open


def refusal(page: Page, name: str, values: list[Any]) -> str:
    """What an endpoint that must refuse `values` says."""
    event = next(event for event in page.fns.values() if event.api_name == name)
    assert event.fn
    values = [*values]
    with pytest.raises(gr.Error) as raised:
        page.validate_inputs(event, values)
        event.fn(*values)
    assert not raised.value.print_exception and raised.value.title == "Error"
    return str(raised.value.message)


def test_every_endpoint_that_takes_something_is_here(page: Page) -> None:
    takes = {e.api_name for e in page.fns.values() if e.api_name and e.fn and inspect.signature(e.fn).parameters}
    assert takes == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_the_wrong_type_are_bad_input(page: Page, name: str) -> None:
    good = ARGUMENTS[name]
    for place in range(len(good)):
        for wrong in WRONG:
            message = refusal(page, name, [*good[:place], wrong, *good[place + 1 :]])
            assert 0 < len(message) < 2000 and "fault" not in message, (place, wrong)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_left_out_have_their_defaults_or_are_asked_for(page: Page, name: str) -> None:
    good = ARGUMENTS[name]
    for count in range(len(good)):
        assert ("is missing: pass " in refusal(page, name, good[:count])) == (count < NEEDED[name])
    assert f"{len(good) + 1} values were sent" in refusal(page, name, [*good, 1])


def test_kinds_are_told_in_words(page: Page) -> None:
    for name, values, words in (
        ("train", [None, "cat"], "dataset = None: must be text"),
        ("train", ["x", "cat", [1]], "settings = [1]: must be a mapping of names to values"),
        ("generate", ["a cat", {}, 1.5], "n = 1.5: must be a whole number"),
        ("generate", ["a cat", {"x": "1"}], "must be a mapping of names to numbers"),
        ("generate", ["a cat", {"x": float("nan")}], "must be a mapping of names to numbers"),
        ("analyze", ["runs/x"], "must be a list of names"),
    ):
        message = refusal(page, name, values).replace("&#x27;", "'")
        assert words in message, message


def test_private_events_have_no_name(page: Page) -> None:
    private = [event for event in page.fns.values() if event.api_visibility != "public"]
    assert len(private) > 10 and not any(event.api_name for event in private)
    assert page.endpoints == {*ARGUMENTS, "jobs", "adapters"}
    with pytest.raises(gr.Error, match="values were sent"):
        page.validate_inputs(next(event for event in private if event.inputs), [])
