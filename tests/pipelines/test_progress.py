"""A bar on a terminal, plain lines elsewhere, and a listener that is gone disturbs nothing."""

import io
import re

import pytest

from dreamtune.pipelines import progress
from dreamtune.pipelines.progress import Printer, Progress, clock
from dreamtune.pipelines.train import run_log
from dreamtune.pipelines.train.run_log import Pace


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A stream whose reader has gone away after `lines` writes."""

    def __init__(self, writes: int, terminal: bool) -> None:
        super().__init__()
        self.left, self.terminal, self.refused = writes, terminal, 0

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        if not self.left:
            self.refused += 1
            raise BrokenPipeError(32, "Broken pipe")
        self.left -= 1
        return super().write(text)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in (progress, run_log):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def train(done: int) -> Progress:
    return Progress("train", done, 10, loss=0.12345, per_second=2.0, seconds_left=(10 - done) / 2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_plain_lines_come_every_few_seconds_and_at_the_end(time: Clock) -> None:
    stream = io.StringIO()
    with Printer(stream, interval=5) as printer:
        printer(Progress("latents", 3, 3))
        for done in range(1, 11):
            printer(train(done))
            time.now += 2
            if done == 5:
                printer(Progress("remark", message="something happened"))
    assert stream.getvalue().splitlines() == [
        "latents 3/3",
        "train 1/10  loss 0.1235  2.00 it/s  0:04 left",
        "train 4/10  loss 0.1235  2.00 it/s  0:03 left",
        "remark: something happened",
        "train 7/10  loss 0.1235  2.00 it/s  0:02 left",
        "train 10/10  loss 0.1235  2.00 it/s  0:00 left",
    ]


def test_a_terminal_gets_a_bar_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Printer(stream) as printer:
        printer(train(1))
        printer(Progress("remark", message="[bold] is no markup"))
        printer(train(10))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "remark: [bold] is no markup" in shown
    *_, last = [line for line in shown.split("\n") if line.strip()]
    assert re.search(r"train\s.*10/10 loss 0.1235  2.00 it/s  0:00 left", last), last
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l"), "the cursor is back"


@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "terminal"])
@pytest.mark.parametrize("writes", [0, 3])
def test_a_stream_that_breaks_stops_the_showing_and_nothing_else(
    terminal: bool, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Gone(writes, terminal)
    with Printer(stream, interval=0) as printer:
        for done in range(1, 11):
            printer(train(done))
            printer(Progress("remark", message="on it goes"))
    assert stream.refused
    if not terminal:
        assert stream.refused == 1, "it is asked no more"


def test_pace_is_that_of_the_last_steps_and_of_this_call(time: Clock) -> None:
    """After a resume at step 100 of 200: a step takes 2 s, and 0.5 s pass between two."""
    pace = Pace(200)
    time.now += 500  # loading and encoding
    pace.start(100)
    for step in range(101, 121):
        time.now += 2.5
        rate, left = pace.step(step, 2.0)
        assert (rate, left) == (pytest.approx(0.5), pytest.approx((200 - step) * 2.5))
    time.now += 60.5
    rate, left = pace.step(121, 60.0)  # a launch
    assert (rate, left) == (pytest.approx(0.5), pytest.approx(79 * 2.5))
    for step in range(122, 142):  # the machine is free now
        time.now += 1.5
        rate, left = pace.step(step, 1.0)
    assert (rate, left) == (pytest.approx(1.0), pytest.approx(59 * 1.5))
