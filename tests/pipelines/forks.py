"""Real processes of the command line that start in a moment: forked from one that has imported everything.

Run as a program it is that process. It reads a request a line from stdin, forks a child for it and answers with two
lines: the child's process id at once, its exit status (negative: the signal that ended it) when it has ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.pipelines.fork_server import ForkServer, import_all


class Process:
    """A command line that runs."""

    def __init__(self, forks: Forks, pid: int, log: Path) -> None:
        self._forks, self.pid, self._log = forks, pid, log
        self._status: int | None = None

    def send(self, number: int) -> None:
        """Send a signal; one that has ended keeps its id until the next is started."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        if self._status is None:
            self._status = int(self._forks.answer())
        return self._status

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text()


class Forks(ForkServer):
    """Starts one process at a time."""

    def __init__(self, folder: Path) -> None:
        """folder: for what they write to stderr."""
        super().__init__("tests.pipelines.forks")
        self.folder, self._count = folder, 0

    def start(self, *arguments: str, slow_disk: float = 0.0, slow_file: str = "") -> Process:
        """Start `dreamtune arguments...`; flushing a file to the disk takes `slow_disk` seconds more.

        slow_file: only one whose path contains this.
        """
        self._count += 1
        log = self.folder / f"{self._count:03d}.log"
        request = {"arguments": arguments, "slow_disk": slow_disk, "slow_file": slow_file, "log": str(log)}
        self.ask(json.dumps(request))
        return Process(self, int(self.answer()), log)


def _serve() -> None:
    import_all()
    answers, previous = os.dup(1), 0
    for line in sys.stdin:
        request = json.loads(line)
        if previous:
            os.waitpid(previous, 0)
        pid = os.fork()
        if not pid:
            os.close(answers)
            os._exit(_child(request))
        os.write(answers, f"{pid}\n".encode())
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its id stays its own: no signal can hit another
        assert ended
        exited = ended.si_code == os.CLD_EXITED
        os.write(answers, f"{ended.si_status if exited else -ended.si_status}\n".encode())
        previous = pid


def _child(request: dict[str, Any]) -> int:
    from dreamtune.pipelines.cli.app import main

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDWR)
    for number, target in ((0, null), (1, null), (2, log)):
        os.dup2(target, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner in the background may have it ignored
    if request["slow_disk"]:
        flush = os.fsync

        def slow(file: int) -> None:
            if not request["slow_file"] or request["slow_file"] in os.readlink(f"/proc/self/fd/{file}"):
                time.sleep(request["slow_disk"])
            flush(file)

        os.fsync = slow
    code = main(request["arguments"])
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
