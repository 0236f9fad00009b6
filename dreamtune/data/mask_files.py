"""Which files of a folder are masks of which images, by the names that people and other tools give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreamtune.data.captions import SUFFIXES as TEXTS
from dreamtune.data.captions import shared
from dreamtune.data.images import SUFFIXES, Remark, printable
from dreamtune.words import one_form

FOLDERS = ("masks", "mask")
"""Of masks that are called as their pictures are, in small letters or large."""
_MARKED = re.compile(r"(?P<stem>.+?)(?P<mark>\.mask|[-_]masklabel|[-_]mask)", re.IGNORECASE | re.DOTALL)
_SURE = (".mask", "-masklabel", "_masklabel")
"""Marks that no photograph has in its name; "gas_mask.jpg" may be one."""
_REMEDY = "give it the name of its image: x.mask.png for x.jpg"


@dataclass(frozen=True)
class MaskFile:
    """A file that is a mask by its name."""

    path: Path
    name: str
    """Inside the folder of pictures, safe to print."""
    sure: bool = True
    """Whether its name can mean nothing else; if not, a mask has no color."""


@dataclass
class MaskFiles:
    """The masks of a folder.

    x.mask.png, x-masklabel.png (OneTrainer) and x_mask.png beside x.jpg, or x.png in a folder masks; in the place of x
    all of x.jpg may stand. The first of these that is there counts. Names are compared in one Unicode form.
    """

    files: list[Path]
    """The other files: those that may be pictures."""
    doubtful: set[Path]
    """Those of them that are called as masks are, but belong to no picture: masks if they have no color."""
    remarks: list[Remark] = field(default_factory=list)
    _by_name: dict[str, list[MaskFile]] = field(default_factory=dict)
    """Stem or name of a picture, in one form -> its masks."""

    @classmethod
    def find(cls, entries: Iterable[Path]) -> MaskFiles:
        """Sort the entries of a folder, in order of name."""
        entries = list(entries)
        by_mark = {path: found for path in entries if (found := marked(path))}
        others = [path for path in entries if path not in by_mark and path.suffix.lower() not in TEXTS]
        names = {one_form(name) for path in others for name in (path.name, path.stem)}
        found = cls([], set())
        ranked: list[tuple[int, str, MaskFile]] = []
        for path in entries:
            stem, mark = by_mark.get(path, ("", ""))
            if path in by_mark and (mark in _SURE or stem in names):
                rank = 0 if mark == ".mask" else 1 if mark in _SURE else 2
                ranked.append((rank, stem, MaskFile(path, printable(path.name), mark in _SURE)))
            elif path.name.lower() in FOLDERS and path.is_dir():
                ranked += [(3, *it) for it in found._inside(path, names)]
            else:
                found.files.append(path)
                found.doubtful |= {path} & by_mark.keys()
        for _, stem, mask in sorted(ranked, key=lambda it: it[0]):
            found._by_name.setdefault(stem, []).append(mask)
        return found

    def of(self, picture: Path) -> MaskFile | None:
        """The mask of a picture."""
        for name in (picture.name, picture.stem):
            if masks := self._by_name.get(one_form(name)):
                return masks[0]
        return None

    def finish(self, pictures: Sequence[Path], used: bool) -> list[Remark]:
        """All remarks; pictures: all files that may be one. used: whether masks are wanted."""
        users: dict[Path, list[Path]] = {}
        taken: dict[Path, MaskFile] = {}
        for picture in pictures:
            for name in (picture.name, picture.stem):
                for mask in self._by_name.get(one_form(name), []):
                    own = self.of(picture)
                    assert own is not None
                    taken.setdefault(mask.path, own)
                    if mask is own:
                        users.setdefault(mask.path, []).append(picture)
        every = [mask for masks in self._by_name.values() for mask in masks]
        for mask in every:
            if len(users.get(mask.path, [])) > 1:
                self.remarks.append(shared(mask.path, "the mask", users[mask.path]))
            elif mask.path not in taken:
                self.remarks.append(Remark(mask.name, "matches no image", _REMEDY))
            elif mask.path not in users:
                self.remarks.append(
                    Remark(mask.name, f"is ignored in favor of {taken[mask.path].name}", "keep only one")
                )
        if every and not used:
            self.remarks.append(Remark("masks", f"{len(every)} are ignored", "set masks to true to use them"))
        return self.remarks

    def _inside(self, folder: Path, names: set[str]) -> list[tuple[str, MaskFile]]:
        """(stem or name of its picture, mask) of the files in a folder of masks."""
        found: list[tuple[str, MaskFile]] = []
        try:
            entries = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
        except OSError as error:
            problem = f"cannot be opened ({error.strerror or error})"
            self.remarks.append(Remark(printable(folder.name), problem, "check its permissions"))
            return found
        for path in entries:
            shown = printable(f"{folder.name}/{path.name}")
            if path.suffix.lower() not in SUFFIXES:
                self.remarks.append(Remark(shown, "is not an image", "it is ignored"))
                continue
            stem, (start, _) = one_form(path.stem), marked(path) or ("", "")
            found.append((stem if stem in names or not start else start, MaskFile(path, shown)))
        return found


def marked(path: Path) -> tuple[str, str] | None:
    """What stands before the mark of a mask in a picture's name, in one form, and the mark; None without one."""
    match = _MARKED.fullmatch(path.stem) if path.suffix.lower() in SUFFIXES else None
    return match and (one_form(match["stem"]), match["mark"].lower())
