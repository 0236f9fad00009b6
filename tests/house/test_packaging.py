"""What is installed is what lies in the tree, under dreamtune only."""

import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dreamtune.pipelines.fuse import explain as fuse_explain
from tests.house.tree import ROOT, modules


def test_package_list_is_the_tree() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {".".join(file.relative_to(ROOT).parent.parts) for file in modules().values()}
    assert settings["packages"] == sorted(folders)
    assert folders <= set(modules()), "a folder of modules lacks its __init__.py"


def test_linked_packages_are_the_mapped_ones() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    links = {f"dreamtune.{e.name}": e.readlink().as_posix() for e in (ROOT / "dreamtune").iterdir() if e.is_symlink()}
    mapped = {name: f"../{folder}" for name, folder in settings["package-dir"].items() if name != "dreamtune"}
    assert links == mapped


def test_every_file_that_is_no_module_is_packaged() -> None:
    """So that an installed dreamtune does what one from the checkout does."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packed = {
        file
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).resolve().glob(pattern)
    }
    files = {file for folder in ("dreamtune", "pipelines", "ui") for file in (ROOT / folder).rglob("*")}
    loose = {file for file in files if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts}
    assert sorted(str(file) for file in loose - packed) == []
    assert fuse_explain.CALIBRATION.resolve() in packed


@pytest.mark.parametrize("name", ["pipelines", "ui"])
def test_no_second_copy_by_another_name(name: str) -> None:
    with pytest.raises(ImportError, match=f"as dreamtune.{name}"):
        importlib.import_module(name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that nothing is left in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("dreamtune", "pipelines", "ui"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", out, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.slow
def test_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = {p for folder in ("dreamtune", "pipelines", "ui") for p in (ROOT / folder).rglob("*") if p.is_file()}
    inside = {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts}
    assert names == {name if name.startswith("dreamtune/") else f"dreamtune/{name}" for name in inside}


@pytest.mark.slow
def test_wheel_works_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
from importlib import metadata, util
import dreamtune.pipelines.train.run, dreamtune.ui, dreamtune.pocket
assert all(m.__file__.startswith({str(site)!r}) for n, m in sys.modules.items() if n.split(".")[0] == "dreamtune")
assert util.find_spec("pipelines") is None and util.find_spec("ui") is None
(found,) = metadata.distributions(name="dreamtune", path=[{str(site)!r}])
assert found.version == dreamtune.__version__
(command,) = found.entry_points
assert callable(command.load())
assert dreamtune.pocket.path().is_dir()
from dreamtune.pipelines.fuse import explain as fuse_explain
assert str(fuse_explain.CALIBRATION).startswith({str(site)!r})
assert fuse_explain._calibration()["pairs"] == {json.loads(fuse_explain.CALIBRATION.read_text())["pairs"]}
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_wheel_trains_where_there_are_no_links(wheel: Path, tiny: Path, photos: Path, tmp_path: Path) -> None:
    """pipelines and ui, which are links in a checkout, are folders in it; nothing makes links."""
    with zipfile.ZipFile(wheel) as archive:
        assert not [it.filename for it in archive.infolist() if stat.S_ISLNK(it.external_attr >> 16)]
        archive.extractall(tmp_path / "site")
    code = f"""
import os, sys
def none(*_, **__): raise OSError("no links here")
os.symlink = os.link = none
sys.path.insert(0, {str(tmp_path / "site")!r})
from dreamtune.pipelines.cli import app as cli
assert cli.__file__.startswith({str(tmp_path / "site")!r})
given = ["--class", "dog", "--base", {str(tiny)!r}, "--steps", "2", "--device", "cpu", "--set", "prior=false"]
sys.exit(cli.main(["train", {str(photos)!r}, *given, "--set", "rank=2", "--out", "run"]))
"""
    environment = os.environ | {"DREAMTUNE_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "adapter.safetensors").is_file()
