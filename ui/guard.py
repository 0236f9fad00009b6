"""Checks every request: where it comes from, how large it is, and which headers browsers get."""

from __future__ import annotations

import hmac
import ipaddress
import re
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from dreamtune.errors import ConfigError

from .context import App

UPLOAD = 64 << 20
"""Bytes of one file of pictures or adapters; larger adapters are put into the library's folder by hand."""
REQUEST = 512 << 20
"""Bytes of one request, of all files together."""
LOGINS = 10
"""Wrong passwords in a minute, of all visitors together, before nobody can try another."""

_CALL = re.compile(r"/gradio_api/(?:call/v2|call|run|api)/(?!predict/?$)(?P<name>[^/]*)")
"""Calls by name; what is called "predict" is how the page itself calls its events that skip the queue, by number."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class TooLarge(Exception):
    """More bytes than a request may have."""


class Guard:
    """ASGI middleware. `hosts`: names under which the page may be asked for; none for any, where there is a login.

    Without that check a page elsewhere could reach a server on this machine under a name of its own (DNS rebinding).
    `endpoints`: names that can be called.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        hosts: frozenset[str] | None,
        endpoints: frozenset[str],
    ) -> None:
        self.app, self.hosts, self.endpoints = app, hosts, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name(host) not in self.hosts:
            await _refuse(send, 403, "this app answers only at its own address, e.g. http://127.0.0.1")
            return
        if _is_from_another_page(scope.get("method", "GET"), host, headers):
            await _refuse(send, 403, "request from another site refused: open the app itself")
            return
        if (called := _CALL.match(scope.get("path", ""))) and called["name"] not in self.endpoints:
            await _refuse(send, 404, "unknown endpoint: /gradio_api/info lists all")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > REQUEST:
            await _refuse(send, 413, f"request too large: send at most {REQUEST >> 20} MiB at once")
            return
        taken, begun = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > REQUEST:  # sent in pieces, without saying how long it is
                raise TooLarge
            return message

        async def told(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = [(name, value) for name, value in message["headers"] if name.lower() not in _HEADERS]
                message["headers"] = [*own, *_HEADERS.items()]
            await send(message)

        try:
            await self.app(scope, counted, told)
        except TooLarge:
            if not begun:
                await _refuse(send, 413, f"request too large: send at most {REQUEST >> 20} MiB at once")


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


def _is_from_another_page(method: str, host: str, headers: dict[bytes, bytes]) -> bool:
    """Whether a browser says that a page from elsewhere wants to change something here (CSRF), as by a form.

    Programs say nothing of it, and no page can keep its browser from saying so.
    """
    if method in ("GET", "HEAD", "OPTIONS"):  # these change nothing
        return False
    if site := headers.get(b"sec-fetch-site"):
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    own = {host, headers.get(b"x-forwarded-host", b"").decode("latin-1")}  # a form cannot set the latter
    return origin is not None and origin.decode("latin-1").partition("://")[2] not in own - {""}


def _name(host: str) -> str:
    """A Host header without its port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    return name.strip("[]").lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def hosts_for(host: str) -> frozenset[str] | None:
    """The names that :class:`Guard` lets in."""
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()}) if is_loopback(host) else None


class Login:
    """Compares a name and a password in the same time whatever is wrong, and bounds how often that can be tried."""

    def __init__(self, auth: str) -> None:
        """auth: USER:PASSWORD. Raises ConfigError that does not repeat it."""
        self._user, colon, self._password = auth.partition(":")
        if not self._user or not colon or len(self._password) < 8:
            raise ConfigError("--auth must be USER:PASSWORD, with a password of at least 8 characters")
        self._wrong: list[float] = []
        self._mutex = threading.Lock()

    def __call__(self, user: str, password: str) -> bool:
        """Whether they are right."""
        with self._mutex:
            now = time.monotonic()
            self._wrong = [then for then in self._wrong if now - then < 60]
            if len(self._wrong) >= LOGINS:
                return False
            same_user = hmac.compare_digest(user.encode(), self._user.encode())
            same_password = hmac.compare_digest(password.encode(), self._password.encode())
            if same_user and same_password:
                return True
            self._wrong.append(now)
            return False


PICTURE_TYPES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".heif", ".txt"]
ADAPTER_TYPES = [".safetensors"]


def uploaded(app: App, files: Sequence[str] | None) -> list[tuple[str, Path]]:
    """(name as it was sent, where it lies) of each. Raises ConfigError for a path that is no upload."""
    return [(Path(file).name, upload(app, file)) for file in files or ()]


def upload(app: App, file: str) -> Path:
    """One of them. A link, a folder, or anything outside the upload folder is refused."""
    if "\0" not in str(file):
        path = Path(file)
        if path.is_absolute() and path.resolve().is_relative_to(app.workspace.uploads) and path.is_file():
            return path.resolve()
    raise ConfigError(f"{Path(str(file)).name[:80]!r} was not uploaded here: upload it first")
