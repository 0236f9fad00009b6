"""What stands before every request: whose page it is, how much it may bring, and what browsers are told."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from dreamtune.errors import ConfigError

UPLOAD = 64 << 20
"""Bytes of one file of pictures or adapters; larger adapters are put into the library's folder by hand."""
REQUEST = 512 << 20
"""Bytes of one request, of all files together."""
LOGINS = 10
"""Wrong passwords in a minute, of all visitors together, before nobody can try another."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"no-referrer",
}


class TooLarge(Exception):
    """More bytes than a request may have."""


class Guard:
    """ASGI middleware. `hosts`: names under which the page may be asked for; none for any, where there is a login.

    Without that check a page elsewhere could reach a server on this machine under a name of its own (DNS rebinding).
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], hosts: frozenset[str] | None) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _name(host) not in self.hosts:
            await _refuse(send, 403, "this app answers under its own address only, such as http://127.0.0.1")
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > REQUEST:
            await _refuse(send, 413, f"too large: at most {REQUEST >> 20} MiB at once")
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
                await _refuse(send, 413, f"too large: at most {REQUEST >> 20} MiB at once")


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})


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
            raise ConfigError("--auth must be USER:PASSWORD, the password of at least 8 characters")
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
