"""Serving the app: access, the files it may serve, and its worker."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dreamtune.errors import ConfigError
from dreamtune.pipelines.console import say
from dreamtune.pipelines.workspace import Workspace

from .guard import UPLOAD, Guard, Login, hosts_for, is_loopback

if TYPE_CHECKING:
    from .calls import Page
    from .context import App

LOOK = 0.05
"""Seconds between two looks at the queue of events, and at their progress."""
SESSIONS = 100
"""Pages and API calls whose state is kept, the latest: each takes half a megabyte, and every API call is one."""
WATCH = 5.0
"""Seconds between two looks at the worker."""


@dataclass(frozen=True)
class Settings:
    """Options of `dreamtune ui`."""

    host: str = "127.0.0.1"
    port: int = 7860
    auth: str | None = field(default=None, repr=False)
    """USER:PASSWORD."""
    home: Path | None = None
    images: tuple[Path, ...] = ()
    bases: tuple[Path, ...] = ()
    workers: int = 1

    def login(self) -> Login | None:
        """Who may come in. Raises ConfigError for an address that others reach without a login."""
        if self.auth is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} gives other machines access: add --auth USER:PASSWORD (or set "
                "DREAMTUNE_AUTH), or leave --host out"
            )
        return Login(self.auth) if self.auth is not None else None


class Server:
    """The app while it is served."""

    def __init__(self, settings: Settings) -> None:
        """Serve, and return once the page can be asked for. Raises ConfigError before anything is written."""
        login = settings.login()
        port = _free_port(settings.host, settings.port)
        workspace = Workspace(settings.home, settings.images, settings.bases)
        workspace.make()
        self.app, self.blocks = _build(workspace, settings.workers)
        self._done = threading.Event()
        self._launch(settings, port, login)
        self.url = f"http://{'[' + settings.host + ']' if ':' in settings.host else settings.host}:{port}"
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _launch(self, settings: Settings, port: int, login: Login | None) -> None:
        from .theme import css, theme

        self.blocks.queue(max_size=64, default_concurrency_limit=8, api_open=False)
        # Gradio looks for events a thousand times a second and for progress a hundred times, which takes 4 % of a core
        # while nobody asks for anything.
        self.blocks._queue.sleep_when_free = self.blocks._queue.progress_update_sleep_when_free = LOOK
        self.blocks.launch(
            server_name=settings.host,
            server_port=port,
            auth=login,
            share=False,
            inbrowser=False,
            quiet=True,
            show_error=False,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            enable_monitoring=False,
            max_file_size=UPLOAD,
            state_session_capacity=SESSIONS,
            allowed_paths=[str(self.app.workspace.pictures), str(self.app.workspace.exports)],
            blocked_paths=[str(self.app.workspace.jobs)],
            footer_links=["api"],
            app_kwargs={
                "middleware": [(Guard, (), {"hosts": hosts_for(settings.host), "endpoints": self.blocks.endpoints})]
            },  # as Starlette unpacks it
            theme=theme(),
            css=css(),
        )

    def _watch(self) -> None:
        """Start the worker while there is work, and again should it die."""
        from dreamtune.pipelines.jobs.job import UNFINISHED

        while not self._done.is_set():
            if any(job.state in UNFINISHED for job in self.app.jobs.list()):
                self.app.call_worker().join()
            self._done.wait(WATCH)

    def close(self) -> None:
        """Stop serving. Jobs continue: they and the worker have their own processes."""
        self._done.set()
        self.blocks.close(verbose=False)


def serve(settings: Settings) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises ConfigError for bad options, among them an address in use."""
    stop = threading.Event()
    server = Server(settings)
    say(f"dreamtune is running at {server.url}  (Ctrl-C stops it; jobs continue)", file=sys.stderr)
    say(f"Data folder: {server.app.workspace.home}", file=sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    server.close()


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port or --host"
            ) from None
        return probe.getsockname()[1]


def _build(workspace: Workspace, workers: int) -> tuple[App, Page]:
    # Gradio reads these when it is imported: nothing leaves this machine, and files stay in the app's own folder.
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from dreamtune.pipelines.jobs.queue import Jobs
    from dreamtune.pipelines.jobs.worker import WorkerProcess

    from .app import build
    from .context import App

    app = App(workspace, Jobs(workspace.jobs), WorkerProcess(workspace.jobs, workers))
    return app, build(app)
