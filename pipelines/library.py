"""The adapters in the app's folder: what each one is, its thumbnail, and importing files of other tools."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dreamtune.errors import AdapterFileError, ConfigError, DreamtuneError, first_line
from dreamtune.pipelines.fuse.output import loss_of_file
from dreamtune.pipelines.output import complete
from dreamtune.pipelines.workspace import Workspace, plain_name, tidy_name

MOST_BYTES = 4 << 30
"""Largest file that can be imported."""
QUICK_BYTES = 64 << 20
"""Largest file that is measured without being asked for."""
_MOST_KNOWN = 256
"""Health results that are kept."""
WORDS = ("sks", "zwx", "qpl", "vrk", "xob", "ohw", "tuv", "jmz")
"""Tokens in the order in which they are suggested: pocket was trained to give them no meaning, and they are not words
to Stable Diffusion's tokenizers either."""


@dataclass(frozen=True)
class Entry:
    """One adapter of the library."""

    name: str
    """As :meth:`Workspace.adapter` knows it."""
    path: Path
    size: int
    """Bytes."""
    changed: float
    """Seconds since 1970."""
    method: str = ""
    rank: int = 0
    base: str = ""
    parts: tuple[str, ...] = ()
    """Which of `unet`, `text_encoder` and `text_encoder_2` it changes."""
    tokens: tuple[str, ...] = ()
    """Words for its subjects."""
    subject: str = ""
    """How a prompt calls its subjects, "sks dog, zwx cat"; empty if that is not known."""
    tool: str = ""
    """What wrote the file."""
    layers: int = 0
    warning: str | None = None
    """What a fusion lost when it was written."""
    error: str | None = None
    """Why it cannot be used; the other fields are then empty."""

    @property
    def label(self) -> str:
        """The name without its folder."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Health:
    """What an adapter changes, as far as the file alone shows."""

    measured: int
    """Layers whose change could be measured without the base."""
    norm: float
    """‖ΔW‖ (Frobenius) of these together."""
    empty: tuple[str, ...]
    """Layers that it leaves exactly as they are."""
    rank_used: int
    """Median rank that keeps 90 % of a layer's change."""
    strongest: tuple[tuple[str, float], ...]
    """Layers with the largest share of the change, and that share."""

    @property
    def verdict(self) -> str:
        """In a few words."""
        if not self.measured:
            return "not measured: the change depends on the base"
        if len(self.empty) == self.measured:
            return "changes nothing: retrain it"
        return f"{len(self.empty)} of {self.measured} layers are empty" if self.empty else "healthy"


def entries(workspace: Workspace) -> list[Entry]:
    """All adapters, the newest first. A file that cannot be read says so in its entry."""
    found = []
    for name, path in workspace.all_adapters().items():
        try:
            stat = path.stat()
        except FileNotFoundError:  # removed at this moment
            continue
        found.append(_entry(name, path, stat.st_size, stat.st_mtime_ns))
    return found


def free_word(workspace: Workspace, pending: Iterable[str] = ()) -> str:
    """A token that no adapter of the library uses yet, nor any of `pending`: no prompt could tell two of them apart.

    The first token again once all are taken.
    """
    known = [token for found in entries(workspace) for token in found.tokens]
    taken = {word.lower() for word in (*known, *pending)}
    return next((word for word in WORDS if word not in taken), WORDS[0])


def entry(workspace: Workspace, name: str) -> Entry:
    """One of them. Raises ConfigError for a name that none has."""
    path = workspace.adapter(name)
    stat = path.stat()
    return _entry(name, path, stat.st_size, stat.st_mtime_ns)


def warning_of(path: Path) -> str | None:
    """The warning of the adapter file at `path`; None if there is none, or no such file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _entry(path.stem, path, stat.st_size, stat.st_mtime_ns).warning


@lru_cache(maxsize=512)
def _entry(name: str, path: Path, size: int, changed: int) -> Entry:
    from dreamtune.adapters.formats import read_adapter

    try:
        imported = read_adapter(path)
    except DreamtuneError as error:
        return Entry(name, path, size, changed / 1e9, error=str(error).replace(str(path), path.name))
    except Exception as fault:  # whatever one file does: the others are to be seen
        return Entry(name, path, size, changed / 1e9, error=f"{path.name} cannot be read: {first_line(fault)}")
    file = imported.file
    return Entry(
        name=name,
        path=path,
        size=size,
        changed=changed / 1e9,
        method=file.method,
        rank=file.config.rank,
        base=file.base,
        parts=file.parts,
        tokens=file.tokens,
        subject=file.called,
        tool=imported.tool or f"dreamtune {file.version}",
        layers=len(file.layers),
        warning=loss_of_file(file.training),
    )


_healths: dict[tuple[Path, int, float], Health] = {}
_hopeless: set[tuple[Path, int, float]] = set()
"""Files that could not be measured, which is not tried again at each visit."""


def known_health(found: Entry) -> Health | None:
    """What was measured of this very file, at once; None if nothing was."""
    return _healths.get(_version(found))


def is_hopeless(found: Entry) -> bool:
    """Whether this very file could not be measured."""
    return _version(found) in _hopeless


def health(workspace: Workspace, name: str) -> Health:
    """Measure the changes of an adapter, unless that was done. Raises ConfigError and AdapterFileError."""
    from dreamtune.pipelines.export.inspect import inspect

    found = entry(workspace, name)
    if (known := known_health(found)) is not None:
        return known
    try:
        layers = inspect(found.path).layers
    except Exception as fault:  # of memory too: one file must not keep the others from being measured
        _hopeless.add(_version(found))
        if isinstance(fault, DreamtuneError):
            raise
        raise AdapterFileError(f"{found.label} cannot be measured: {first_line(fault)}") from None
    ranks = sorted(layer.rank_used for layer in layers)
    measured = Health(
        measured=len(layers),
        norm=sum(layer.norm**2 for layer in layers) ** 0.5,
        empty=tuple(layer.path for layer in layers if layer.norm == 0),
        rank_used=ranks[len(ranks) // 2] if ranks else 0,
        strongest=tuple((layer.path, layer.energy) for layer in layers[:5]),
    )
    while len(_healths) >= _MOST_KNOWN:
        _healths.pop(next(iter(_healths)), None)
    _healths[_version(found)] = measured
    return measured


def measure(workspace: Workspace) -> None:
    """Measure all adapters that were not measured yet, except large ones: those take minutes, only on request."""
    for found in entries(workspace)[:_MOST_KNOWN]:
        is_open = known_health(found) is None and not is_hopeless(found)
        if not found.error and found.size <= QUICK_BYTES and is_open:
            with suppress(DreamtuneError):  # which the details tell
                health(workspace, found.name)


def _version(found: Entry) -> tuple[Path, int, float]:
    return found.path, found.size, found.changed


def import_adapter(workspace: Workspace, file: Path, name: str) -> str:
    """Copy an adapter file of any supported tool into the library, once it could be read; return its name there.

    name: of the file. Raises AdapterFileError for anything but an adapter; nothing is written then.
    """
    shown = Path(name).name[:80]
    if Path(name).suffix.lower() != ".safetensors":
        raise AdapterFileError(
            f"{shown} is not a .safetensors file: convert it first; other formats can run code when they are loaded"
        )
    if file.stat().st_size > MOST_BYTES:
        raise AdapterFileError(
            f"{shown} is larger than {MOST_BYTES >> 30} GiB, too large for an adapter: choose another file"
        )
    from dreamtune.adapters.formats import read_adapter

    try:
        read_adapter(file)
    except DreamtuneError as error:
        raise type(error)(str(error).replace(str(file), shown)) from None
    place = workspace.free_place(workspace.adapters, tidy_name(Path(name).stem, "adapter"), ".safetensors")
    with complete(place, AdapterFileError) as target:
        shutil.copyfile(file, target)
    return place.relative_to(workspace.home).with_suffix("").as_posix()


def remove(workspace: Workspace, name: str) -> Path:
    """Move an adapter, with its run if it has one, to the folder `removed`; return its new path.

    Raises ConfigError for an unknown name, and for a run that is still training.
    """
    from dreamtune.pipelines.run_folder import RunFolder

    path = workspace.adapter(name)
    whole = path.parent if path.parent.parent == workspace.runs else path
    if whole.is_dir() and RunFolder(whole).is_held():
        raise ConfigError(f"{name} is still training: stop the training first")
    bin_folder = workspace.home / "removed"
    bin_folder.mkdir(exist_ok=True)
    place = workspace.free_place(bin_folder, plain_name(whole.stem), whole.suffix)
    whole.rename(place)
    return place


def thumbnail(workspace: Workspace, found: Entry) -> Path | None:
    """An image of what the adapter does: the newest sample of its run, or the newest image generated with it."""
    if found.path.parent.parent == workspace.runs:
        samples = sorted((found.path.parent / "samples").glob("step-*.png"))
        if samples:
            return samples[-1]
    return drawn_with(workspace).get(found.path.name if found.path.parent == workspace.adapters else found.label)


def drawn_with(workspace: Workspace) -> Mapping[str, Path]:
    """Name of an adapter -> the newest image generated with it alone."""
    shown = workspace.pictures / "shown"
    return {path.stem: path for path in shown.glob("*.png")} if shown.is_dir() else {}
