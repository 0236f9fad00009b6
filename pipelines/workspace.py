"""The folder that the app works in. Its contents are addressed by name, never by a path from the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dreamtune.errors import ConfigError
from dreamtune.storage import data_dir
from dreamtune.text import shown
from dreamtune.words import one_form

SAMPLES = {"sample-cat": (39, "cat"), "sample-robot": (71, "robot"), "sample-mug": (0, "mug")}
"""Data sets that are always there -> number and class of the subject in the pocket world."""
SAMPLE_PICTURES = 5
_NAME = re.compile(r"[^\W_][\w .-]{0,79}")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Workspace:
    """Runs, adapters, images, reports and data sets below one folder, and whatever else its owner allows to be read.

    Names are looked up in a listing: a name that is not in it does not exist, whatever it spells. Links that lead out
    of the folder are not listed.
    """

    def __init__(self, home: Path | None = None, images: Sequence[Path] = (), bases: Sequence[Path] = ()) -> None:
        """home: data folder if not given; images, bases: folders outside whose content may be read.

        Raises ConfigError for a folder that is not there, and for a home whose path cannot be written in options.
        """
        self.home = (home or data_dir()).expanduser().resolve()
        if any(sign in str(self.home) for sign in "@+=:,"):  # which stand for something where adapters are named
            raise ConfigError(
                f"the path {self.home} contains a reserved character (@ + = : or a comma): choose another --home"
            )
        self.runs = self.home / "runs"
        self.adapters = self.home / "adapters"
        self.pictures = self.home / "pictures"
        self.reports = self.home / "reports"
        self.exports = self.home / "exports"
        self.datasets = self.home / "datasets"
        self.uploads = self.home / "uploads"
        self.jobs = self.home / "jobs"
        for folder in (*images, *bases):
            if not folder.expanduser().is_dir():
                raise ConfigError(f"no folder {folder}: check the path")
        self._images = [folder.expanduser().resolve() for folder in images]
        self._bases = [folder.expanduser().resolve() for folder in bases]

    def make(self) -> None:
        """Create the folders and the sample subjects. Raises ConfigError if they cannot be written."""
        from dreamtune.pipelines.pocket import draw_pocket

        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.runs, self.adapters, self.pictures, self.reports, self.exports, self.datasets):
                folder.mkdir(exist_ok=True)
            self.uploads.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.home}: {error.strerror}; choose another --home") from None
        for name, (subject, cls) in SAMPLES.items():
            folder = self.datasets / name
            present = {path.name for path in folder.glob("*.png")}
            if not all(f"{number:02d}.png" in present for number in range(SAMPLE_PICTURES)):
                for path in folder.glob("*.png"):  # a start that was killed while it drew them
                    path.unlink()
                draw_pocket(subject, SAMPLE_PICTURES, folder, cls)

    def all_adapters(self) -> dict[str, Path]:
        """Name ("runs/cat", "adapters/fused") -> file, the newest first."""
        runs = [
            (path, path.parent.relative_to(self.home).as_posix()) for path in self.runs.glob("*/adapter.safetensors")
        ]
        files = [
            (path, path.relative_to(self.home).with_suffix("").as_posix())
            for path in self.adapters.glob("*.safetensors")
        ]
        found = [(path, name) for path, name in (*runs, *files) if self._is_own(path)]
        return {name: path for path, name in sorted(found, key=lambda it: (-it[0].stat().st_mtime, it[1]))}

    def all_datasets(self) -> dict[str, Path]:
        """Name -> folder with images: those brought here, the samples, and those of the owner's --images folders."""
        own = [path for path in sorted(self.datasets.glob("*/")) if self._is_own(path)]
        own.sort(key=lambda path: path.name in SAMPLES)
        found = {path.name: path for path in own}
        for root in self._images:
            for folder in (root, *sorted(path for path in root.glob("*/") if path.resolve().is_relative_to(root))):
                name = f"{root.name}/{folder.relative_to(root).as_posix()}" if folder != root else f"{root.name}/"
                if not folder.name.startswith("."):
                    found[name] = folder
        return found

    def all_bases(self) -> dict[str, str]:
        """Name -> what the pipelines call it: pocket, and what lies in the owner's --bases folders."""
        found = {"pocket": "pocket"}
        for root in self._bases:
            for path in sorted(root.iterdir()):
                fits = path.suffix == ".safetensors" or (path / "model_index.json").is_file()
                if fits and path.resolve().is_relative_to(root):
                    found[path.name] = str(path)
        return found

    def all_reports(self) -> dict[str, Path]:
        """Name -> folder of a report that is finished, the newest first."""
        found = [path.parent for path in self.reports.glob("*/report.html") if self._is_own(path)]
        return {path.name: path for path in sorted(found, key=lambda path: -path.stat().st_mtime)}

    def adapter(self, name: str) -> Path:
        """The file of this name. Raises ConfigError."""
        return _named(name, self.all_adapters(), "adapter", "choose one from the library")

    def dataset(self, name: str) -> Path:
        """The folder of this name. Raises ConfigError."""
        return _named(name, self.all_datasets(), "data set", "drop images, or choose from the list")

    def report(self, name: str) -> Path:
        """The report folder of this name. Raises ConfigError."""
        return _named(name, self.all_reports(), "report", "choose from the list")

    def base(self, name: str) -> str:
        """What the pipelines call the base of this name, which may be a hub id too. Raises ConfigError.

        A hub id is no path: one that would name a file or folder here is refused.
        """
        bases = self.all_bases()
        if not isinstance(name, str):  # as a client may send it among settings
            raise ConfigError(f"base = {shown(name)}: must be text")
        if name in bases:
            return bases[name]
        if _HUB.fullmatch(name) and not Path(name).exists():
            return name
        raise ConfigError(
            f"no base {name!r}: choose from the list, use a hub id like owner/name, or start dreamtune ui with --bases"
        )

    def place(self, folder: Path, name: str, suffix: str = "") -> Path:
        """Path of a new item `name` in one of the folders above. Raises ConfigError for an invalid or taken name."""
        name = plain_name(name)
        place = folder / f"{name}{suffix}"
        if place.exists() or place.is_symlink():
            raise ConfigError(f"{name!r} already exists: choose another name")
        return place

    def free_place(self, folder: Path, name: str, suffix: str = "") -> Path:
        """The same, with a number behind the name if it is taken."""
        name, number = plain_name(name), 1
        place = folder / f"{name}{suffix}"
        while place.exists() or place.is_symlink():
            number += 1
            place = folder / f"{name}-{number}{suffix}"
        return place

    def _is_own(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.home)


def plain_name(name: str) -> str:
    """`name` without spaces around it, if it is plain. Raises ConfigError."""
    name = name.strip()
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ConfigError(
            f"invalid name {name[:80]!r}: use only letters, digits, spaces and . - _, starting with a letter or digit"
        )
    return name


def tidy_name(text: str, otherwise: str) -> str:
    """The closest plain name to the foreign `text`; `otherwise` if nothing of it is left."""
    name = re.sub(r"[^\w .-]+", "-", one_form(text)).strip(" .-_")[:60].rstrip(" .")
    return name if _NAME.fullmatch(name) else otherwise


def _named(name: str, known: dict[str, Path], what: str, hint: str) -> Path:
    if name not in known:
        raise ConfigError(f"no {what} {str(name)[:120]!r}: {hint}")
    return known[name]
