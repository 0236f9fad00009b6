"""Systems that lack something: Python modules that are Unix's alone, a home folder."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamtune.errors import ConfigError
from dreamtune.pipelines.cli.app import main
from dreamtune.storage import cache_dir, data_dir
from tests.house.tree import modules

WITHOUT_UNIX = """
import builtins, sys
plain = builtins.__import__
def limited(name, globals=None, locals=None, fromlist=(), level=0):
    if name in ("fcntl", "resource") and (globals or {}).get("__name__", "").startswith("dreamtune"):
        raise ImportError(name)  # as on Windows, where libraries do not ask for them
    return plain(name, globals, locals, fromlist, level)
builtins.__import__ = limited
"""
IMPORTS = "import importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
TRAINING = """
from pathlib import Path
from dreamtune.pipelines.cli.app import main
here = Path(sys.argv[1])
given = ["--class", "dog", "--base", sys.argv[2], "--steps", "2", "--out", str(here / "run"), "--device", "cpu"]
given += ["--set", "rank=2", "--set", "prior=false", "--set", "sampling_steps=2"]
assert main(["train", str(here / "dog"), *given]) == 0
assert main(["train", str(here / "dog"), *given[:-2], "--out", str(here / "next"), "--dry-run"]) == 0
assert main(["jobs", "list"]) == 0
assert main(["train", str(here / "dog"), *given[:-2], "--out", str(here / "next"), "--queue"]) == 2
"""


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_no_module_begins_with_modules_of_unix() -> None:
    begins = {
        (module, name)
        for module, file in modules().items()
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
    }
    assert not {(module, name) for module, name in begins if name in ("fcntl", "resource", "pwd", "grp", "termios")}


@pytest.mark.slow
def test_everything_is_imported_without_modules_of_unix() -> None:
    names = [name for name in modules() if not name.startswith(("dreamtune.ui", "dreamtune.pocket.pretrain"))]
    done = run(WITHOUT_UNIX + IMPORTS, *(name for name in names if not name.endswith("__main__")))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_training_needs_no_modules_of_unix(tiny: Path, photos: Path, tmp_path: Path) -> None:
    """The queue does, and says so."""
    (tmp_path / "dog").symlink_to(photos)
    places = {"DREAMTUNE_JOBS": str(tmp_path / "jobs"), "DREAMTUNE_CACHE": str(tmp_path / "cache")}
    done = run(WITHOUT_UNIX + TRAINING, tmp_path, tiny, **places)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "adapter.safetensors").is_file()
    assert "the job queue needs file locks" in done.stderr and not (tmp_path / "next").exists()


def test_without_a_home_a_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """As in a container whose user has no entry."""

    def nobody(_: int) -> None:
        raise KeyError

    for name in ("HOME", "DREAMTUNE_CACHE", "DREAMTUNE_DATA", "DREAMTUNE_JOBS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(ConfigError, match="no home folder: set HOME, or set DREAMTUNE_CACHE to a writable folder"):
        cache_dir()
    with pytest.raises(ConfigError, match="set HOME, or set DREAMTUNE_DATA"):
        data_dir()
    for command in (["jobs", "list"], ["cache", "list"], ["inspect", "~/x.safetensors"], ["inspect", "~nobody-here/x"]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert told.startswith("Error: ") and told.count("\n") == 1
        assert ("a path starts with ~" if command[0] == "inspect" else "set HOME, or set DREAMTUNE_") in told
