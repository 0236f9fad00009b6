"""A process that has imported everything and forks others on demand: these start in a moment."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


class ForkServer:
    """Runs a module of the tests as a program that is asked and answers by lines; use as a context manager.

    All its processes have one thread.
    """

    def __init__(self, module: str) -> None:
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._server = subprocess.Popen(
            [sys.executable, "-m", module],
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

    def ask(self, request: str) -> None:
        """Send a line."""
        assert self._server.stdin
        self._server.stdin.write(request + "\n")
        self._server.stdin.flush()

    def answer(self) -> str:
        """The next line."""
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line, "the server has ended"
        return line


def import_all() -> None:
    """What a training needs; for the server, before it forks anything."""
    import torch

    torch.set_num_threads(1)  # nothing is computed before the fork: no threads are lost by it
    import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: F401

    import dreamtune.data.prior
    import dreamtune.pipelines.train.run
    import dreamtune.training.loop  # noqa: F401

    gc.freeze()  # a collection in a fork would look through, and so copy, all of what imports have made
