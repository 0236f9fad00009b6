"""Real processes of the command line that start in a moment: forked from one that has imported everything.

Run as a program it is that process. It reads a request a line from stdin, forks a child for it and answers with two
lines: the child's process id at once, its exit status (negative: the signal that ended it) when it has ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


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


class Forks:
    """Starts one process at a time; use as a context manager. All processes have one thread."""

    def __init__(self, folder: Path) -> None:
        """folder: for what they write to stderr."""
        self.folder, self._count = folder, 0
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.pipelines.forks"],
            env=os.environ | single,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    def start(self, *arguments: str, slow_disk: float = 0.0, slow_file: str = "") -> Process:
        """Start `dreamtune arguments...`; flushing a file to the disk takes `slow_disk` seconds more.

        slow_file: only one whose path contains this.
        """
        assert self._server.stdin
        self._count += 1
        log = self.folder / f"{self._count:03d}.log"
        request = {"arguments": arguments, "slow_disk": slow_disk, "slow_file": slow_file, "log": str(log)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Process(self, int(self.answer()), log)

    def answer(self) -> str:
        """The server's next line."""
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line, "the server has ended"
        return line


def _serve() -> None:
    import torch

    torch.set_num_threads(1)  # nothing is computed before the fork: no threads are lost by it
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: F401

    import dreamtune.data.prior
    import dreamtune.pipelines.train
    import dreamtune.training.loop  # noqa: F401

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
    from dreamtune.pipelines.cli import main

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
