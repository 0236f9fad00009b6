"""The app as it is served: who is let in, what is handed out, and what can be called."""

import io
import json
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.ui.evil import HTML, PATHS
from tests.ui.serving import Served, served

PUBLIC = {
    *("/upload", "/check", "/train", "/generate", "/fuse", "/analyze"),
    *("/job", "/jobs", "/stop", "/resume", "/cancel", "/adapters"),
}
AUTH = ("me", "long-password")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(folder / "open") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as made:
        yield made


def call(client: httpx.Client, name: str, *values: object) -> tuple[str, str]:
    """Event and data of the answer of an endpoint."""
    asked = client.post(f"/gradio_api/call/{name}", json={"data": list(values)})
    if asked.status_code != 200:
        return "refused", asked.text
    lines = client.get(f"/gradio_api/call/{name}/{asked.json()['event_id']}").text.strip().splitlines()
    return lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: ")


def test_the_page_is_there_and_tells_nothing_of_this_machine(client: httpx.Client, server: Served) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "dreamtune" in page.text
    config = client.get("/config").text
    assert str(server.workspace.home) not in config.replace(str(server.workspace.uploads), "")


def test_exactly_the_documented_endpoints_are_public(client: httpx.Client) -> None:
    assert set(client.get("/gradio_api/info").json()["named_endpoints"]) == PUBLIC
    for dependency in client.get("/config").json()["dependencies"]:
        assert (dependency["api_visibility"] == "public") == (f"/{dependency['api_name']}" in PUBLIC), dependency


def test_other_names_for_this_machine_are_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("path", [*PATHS, "/proc/self/environ"], ids=range(len(PATHS) + 1))
def test_no_file_is_handed_out_by_path(client: httpx.Client, path: str) -> None:
    for route in ("/gradio_api/file=", "/file="):
        for spelled in (path, httpx.URL("http://x", params={"p": path}).query.decode()[2:]):
            try:
                answer = client.get(route + spelled)
            except (httpx.InvalidURL, httpx.RemoteProtocolError):
                continue  # no client can send it
            assert answer.status_code in (400, 403, 404, 414), answer.status_code


def test_only_pictures_and_exports_of_the_folder_are_handed_out(client: httpx.Client, server: Served) -> None:
    work = server.workspace
    for place, shown in ((work.pictures, True), (work.exports, True), (work.runs, False), (work.jobs, False)):
        place.mkdir(exist_ok=True)
        (place / "x.png").write_bytes(b"x")
        assert (client.get(f"/gradio_api/file={place / 'x.png'}").status_code == 200) == shown
    (work.pictures / "link.png").symlink_to("/etc/hostname")
    assert client.get(f"/gradio_api/file={work.pictures / 'link.png'}").status_code == 403


@pytest.mark.parametrize("name", ["x.svg", "x.html", "x.js", "x.xml"])
def test_what_could_act_is_not_shown_by_the_browser(client: httpx.Client, name: str) -> None:
    sent = client.post("/gradio_api/upload", files={"files": (name, b"<svg onload='alert(1)'/>")}).json()
    answer = client.get(f"/gradio_api/file={sent[0]}")
    assert answer.status_code in (400, 403) or answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_uploads_have_a_limit(client: httpx.Client) -> None:
    big = client.post("/gradio_api/upload", files={"files": ("x.png", b"\0" * (65 << 20))})
    assert big.status_code == 413
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:  # without sending it
        line.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 629145600\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413")


def picture(name: str = "x.png") -> tuple[str, bytes]:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    return name, buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../x.png", b"x")
    return buffer.getvalue()


def uploaded(client: httpx.Client, *files: tuple[str, bytes]) -> list[dict[str, object]]:
    sent = client.post("/gradio_api/upload", files=[("files", file) for file in files]).json()
    return [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in sent]


def test_pictures_become_a_set_and_other_files_do_not(client: httpx.Client, server: Served) -> None:
    event, data = call(client, "upload", uploaded(client, picture("a.png"), ("a.txt", b"a sks dog")), "dog")
    assert (event, data) == ("complete", '["dog"]')
    before = set(server.workspace.datasets.iterdir())
    for name, content in (("x.svg", b"<svg/>"), ("x.zip", archive()), ("x.pt", b"\x80\x04"), ("x", b"x")):
        assert call(client, "upload", uploaded(client, (name, content)), "")[0] == "error"
    assert call(client, "upload", uploaded(client, picture()), "../out")[0] == "error"
    assert set(server.workspace.datasets.iterdir()) == before


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd"])
def test_a_path_is_no_upload(client: httpx.Client, path: str) -> None:
    for sent in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
        assert call(client, "upload", [sent], "")[0] in ("error", "refused")


@pytest.mark.parametrize("name", [*PATHS, HTML], ids=range(len(PATHS) + 1))
def test_endpoints_know_names_alone(client: httpx.Client, name: str) -> None:
    assert call(client, "train", name, "cat", {"steps": 1}, "")[0] == "error"
    assert call(client, "generate", "a cat", {name: 1}, 1, 0, {})[0] == "error"
    assert call(client, "analyze", [name], "")[0] == "error"
    assert call(client, "job", name)[0] == "error"


def test_bad_arguments_are_bad_input(client: httpx.Client, server: Served) -> None:
    """Each kind once, as it arrives; tests/ui/test_calls.py has them all."""
    before = len(server.log.read_text())
    for values, words in (
        ((5, "cat"), "dataset = 5: must be text"),
        (("sample-cat",), "class_word is missing: pass text"),
        ((), "dataset is missing: pass text"),
        (("sample-cat", "cat", {}, "", 5), "5 values were sent"),
        (("sample-cat", "cat", {"steps": 10**400}), "steps = "),
    ):
        event, data = call(client, "train", *values)
        assert event == "error" and words in json.loads(data)["error"], data
    assert server.log.read_text()[before:] == ""


def test_private_events_have_no_name(client: httpx.Client) -> None:
    names = [it["api_name"] for it in client.get("/config").json()["dependencies"]]
    assert {f"/{name}" for name in names if name} == PUBLIC
    for name in ("_stop", "open", "None", "null", "false", "opened", "_look"):
        assert client.post(f"/gradio_api/call/{name}", json={"data": []}).status_code >= 400
        assert client.post(f"/gradio_api/run/{name}", json={"data": []}).status_code >= 400


def test_pages_from_elsewhere_upload_nothing(client: httpx.Client, server: Served) -> None:
    before = set(server.workspace.uploads.rglob("*"))
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        sent = client.post("/gradio_api/upload", files={"files": picture()}, headers=headers)
        assert sent.status_code == 403
        assert client.post("/gradio_api/call/jobs", json={"data": []}, headers=headers).status_code == 403
    assert set(server.workspace.uploads.rglob("*")) == before


def test_a_client_trains_and_looks(client: httpx.Client, server: Served) -> None:
    event, data = call(client, "train", "sample-cat", "cat", {"steps": 3, "prior": False}, "mine")
    assert event == "complete" and '"out":"runs/mine"' in data.replace(" ", ""), data
    assert str(server.workspace.home) not in data
    assert call(client, "train", "sample-cat", "cat", {"images": "/etc"}, "")[0] == "error"
    assert call(client, "cancel", "1")[0] == "complete"
    assert '"cancelled"' in call(client, "jobs")[1]


def test_with_a_login_nothing_but_the_door_is_open(folder: Path) -> None:
    with (
        served(folder / "locked", "--auth", ":".join(AUTH)) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        (running.workspace.pictures / "x.png").write_bytes(b"x")
        shown = f"/gradio_api/file={running.workspace.pictures / 'x.png'}"
        for path in ("/config", "/gradio_api/info", shown, "/gradio_api/queue/status"):
            assert client.get(path).status_code == 401, path
        assert client.post("/gradio_api/upload", files={"files": picture()}).status_code == 401
        for path in ("/gradio_api/call/jobs", "/gradio_api/queue/join", "/gradio_api/run/jobs"):
            assert client.post(path, json={"data": [], "session_hash": "x"}).status_code == 401, path
        assert client.post("/login", data={"username": "me", "password": "guess-guess"}).status_code == 400
        assert client.post("/login", data={"username": AUTH[0], "password": AUTH[1]}).status_code == 200
        assert client.get(shown).status_code == 200
        assert AUTH[1] not in client.get("/config").text + running.log.read_text()
