"""Nothing is reached by a path: what a page or client sends is a name, or an upload of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dreamtune.errors import ConfigError
from dreamtune.pipelines.workspace import Workspace, plain_name, tidy_name
from dreamtune.ui.context import App
from dreamtune.ui.guard import upload
from tests.ui.evil import HTML, PATHS

LOOKUPS: dict[str, Callable[[Workspace, str], object]] = {
    "adapter": Workspace.adapter,
    "dataset": Workspace.dataset,
    "report": Workspace.report,
    "base": Workspace.base,
}


@pytest.mark.parametrize("name", [*PATHS, HTML], ids=range(len(PATHS) + 1))
@pytest.mark.parametrize("what", LOOKUPS)
def test_no_name_leads_out(workspace: Workspace, tmp_path: Path, what: str, name: str) -> None:
    secret = tmp_path / "secret.safetensors"
    secret.write_text("secret")
    (workspace.adapters / "link.safetensors").symlink_to(secret)
    (workspace.runs / "link").symlink_to(tmp_path)
    (workspace.datasets / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError):
        LOOKUPS[what](workspace, name)
    assert secret.name not in str(workspace.all_adapters()) and "link" not in workspace.all_datasets()


@pytest.mark.parametrize("name", [*PATHS, HTML, ".hidden", "a/b", "-x", "a\nb"], ids=range(len(PATHS) + 5))
def test_new_things_have_plain_names(workspace: Workspace, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        workspace.place(workspace.runs, name)
    assert plain_name(tidy_name(name, "otherwise"))


def test_a_taken_name_is_refused_or_numbered(workspace: Workspace) -> None:
    (workspace.runs / "cat").mkdir()
    with pytest.raises(ConfigError, match="already"):
        workspace.place(workspace.runs, "cat")
    assert workspace.free_place(workspace.runs, "cat").name == "cat-2"


def test_a_hub_id_is_no_path(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert workspace.base("owner/name") == "owner/name"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no base"):
        workspace.base("owner/name")


def test_own_folders_are_offered_and_nothing_above_them(tmp_path: Path) -> None:
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "photos" / "out").symlink_to(tmp_path)
    made = Workspace(tmp_path / "home", images=[tmp_path / "photos"])
    assert set(made.all_datasets()) == {"photos/", "photos/dog"}
    with pytest.raises(ConfigError, match="no folder"):
        Workspace(tmp_path / "home", images=[tmp_path / "none"])


def test_only_uploads_count_as_such(app: App, tmp_path: Path) -> None:
    inside = app.workspace.uploads / "abc" / "x.png"
    inside.parent.mkdir()
    inside.write_text("x")
    assert upload(app, str(inside)) == inside
    outside = tmp_path / "secret.png"
    outside.write_text("x")
    (inside.parent / "link.png").symlink_to(outside)
    for path in (*PATHS, str(outside), str(inside.parent / "link.png"), f"{inside.parent}/../../secret.png"):
        with pytest.raises(ConfigError, match="not uploaded"):
            upload(app, path)


def test_samples_are_there_and_whole_after_a_kill(workspace: Workspace) -> None:
    assert len(list((workspace.datasets / "sample-cat").glob("*.png"))) == 5
    (workspace.datasets / "sample-cat" / "03.png").unlink()
    workspace.make()
    assert len(list((workspace.datasets / "sample-cat").glob("*.png"))) == 5
