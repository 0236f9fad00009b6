"""What stands before every request, and who may come in."""

import asyncio
from typing import Any

import pytest

from dreamtune.errors import ConfigError
from dreamtune.ui import guard
from dreamtune.ui.guard import Guard, Login, hosts_for, is_loopback
from dreamtune.ui.launch import Settings


async def inner(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(
    host: str = "localhost:7860",
    headers: dict[str, str] | None = None,
    pieces: int = 1,
    at: str = "127.0.0.1",
    method: str = "GET",
    path: str = "/",
) -> Any:
    """Status and headers of an answer."""
    sent: list[Any] = []
    left = [{"type": "http.request", "body": b"x" * 1000, "more_body": n < pieces - 1} for n in range(pieces)]

    async def receive() -> Any:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    lines = [(name.encode(), value.encode()) for name, value in {"host": host, **(headers or {})}.items()]
    asyncio.run(
        Guard(inner, hosts_for(at), frozenset({"jobs"}))(
            {"type": "http", "method": method, "path": path, "headers": lines}, receive, send
        )
    )
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("host", ["localhost", "localhost:7860", "127.0.0.1:1", "[::1]:7860", "LOCALHOST"])
def test_own_addresses_are_answered(host: str) -> None:
    status, headers = ask(host)
    assert status == 200
    assert headers[b"x-frame-options"] == b"SAMEORIGIN" and headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "", "localhost.evil.example", "127.0.0.1.evil"])
def test_other_names_of_this_machine_are_not(host: str) -> None:
    assert ask(host)[0] == 403
    assert ask(host, at="0.0.0.0")[0] == 200  # where there is a login any name may be right


def test_requests_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(headers={"content-length": str(500 << 20)})[0] == 200
    assert ask(headers={"content-length": str(600 << 20)})[0] == 413
    assert ask(headers={"content-length": "-1"})[0] == 413
    monkeypatch.setattr(guard, "REQUEST", 2500)
    assert ask(pieces=2)[0] == 200
    assert ask(pieces=3)[0] == 413


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost:7860"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:7860"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://localhost:7860"}, 200),  # a browser before 2023
        ({"origin": "https://app.example", "x-forwarded-host": "app.example"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:9000"}, 403),
        ({"origin": "http://127.0.0.1:7860"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
    ],
)
def test_pages_from_elsewhere_change_nothing(headers: dict[str, str], status: int, method: str) -> None:
    """As a form of any page could, which a browser sends with the cookies of this one."""
    assert ask(headers=headers, method=method)[0] == status
    assert ask(headers=headers, at="0.0.0.0", method=method)[0] == status
    assert ask(headers=headers)[0] == 200  # links lead here


def test_the_page_calls_its_own_events_by_number() -> None:
    """Its browser sends those that skip the queue there; without them no picture of a folder is shown."""
    assert ask(path="/gradio_api/run/predict")[0] == 200
    assert ask(path="/gradio_api/run/predictor")[0] == 404


@pytest.mark.parametrize("route", ["call", "call/v2", "run", "api"])
def test_what_has_no_name_cannot_be_called(route: str) -> None:
    for name, status in (("jobs", 200), ("jobs/", 200), ("jobs/0f3a", 200), ("", 404), ("open", 404), ("None", 404)):
        assert ask(path=f"/gradio_api/{route}/{name}")[0] == status, name
    assert ask(path="/gradio_api/queue/join")[0] == 200


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.0.2", False),
        ("example.org", False),
        ("::", False),
    ],
)
def test_other_hosts_need_a_login(host: str, alone: bool) -> None:
    assert is_loopback(host) == alone
    assert Settings(host, auth="me:long-password").login() is not None
    if alone:
        assert Settings(host).login() is None
    else:
        with pytest.raises(ConfigError, match="--auth"):
            Settings(host).login()


@pytest.mark.parametrize("auth", ["", "me", ":password-1", "me:", "me:short"])
def test_a_login_is_complete_and_never_repeated(auth: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Login(auth)
    assert not auth or auth not in str(refused.value).replace("--auth must be USER:PASSWORD", "")
    assert "long-password" not in repr(Settings(auth="me:long-password"))


def test_wrong_passwords_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    login = Login("me:long-password")
    assert login("me", "long-password") and not login("you", "long-password") and not login("me", "pässword")
    for _ in range(guard.LOGINS):
        login("me", "guess")
    assert not login("me", "long-password")
    now[0] = 61
    assert login("me", "long-password")
