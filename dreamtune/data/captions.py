"""Captions of the images in a folder: a text file beside each, or one metadata.jsonl for all."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dreamtune.data.images import Remark, printable
from dreamtune.storage import read_regular
from dreamtune.words import holds, one_form

SUFFIXES = (".txt", ".caption")
"""Of a file beside a picture; the first that is there counts."""
METADATA = "metadata.jsonl"
"""A JSON object with "file_name" and "text" in each line, as Hugging Face's image folders have it."""
LONGEST = 64 << 10
"""Bytes of a text file that can be captions."""
LONGEST_METADATA = 64 << 20
"""Bytes of a metadata.jsonl."""
MOST = 100
"""Captions of one picture: each is kept as the text encoder reads it."""
_FALLBACK = "the instance prompt is used"


class Captions:
    """Finds the captions of an image, with remarks on what is wrong with them.

    A file is a picture's by its stem, or by all of its name: x.txt or x.jpg.txt for x.jpg. Names are compared in one
    Unicode form, since a disk or an archive may have changed that of some of them.
    """

    def __init__(self, entries: Iterable[Path], token: str | None = None) -> None:
        self.token = token
        """Word that captions should hold, if it is known."""
        self.remarks: list[Remark] = []
        self._files: dict[str, Path] = {}
        self._lines: dict[str, tuple[str, ...]] = {}
        self._users: dict[Path, list[Path]] = {}
        """File of captions -> the pictures that have them."""
        self._found: set[str] = set()
        """Those in metadata.jsonl whose pictures are there, in one form."""
        for path in entries:
            if path.suffix.lower() in SUFFIXES:
                other = self._files.setdefault(one_form(path.stem) + path.suffix.lower(), path)
                if other is not path:
                    self._remark(path.name, f"is ignored in favor of {printable(other.name)}", "keep only one")
            elif path.name == METADATA:
                self._read_metadata(path)

    def owns(self, path: Path) -> bool:
        """Whether a file is one of captions and not to be tried as a picture."""
        return path.suffix.lower() in SUFFIXES or path.name == METADATA

    def of(self, picture: Path) -> tuple[str, ...]:
        """The captions of a picture, one for each line; a text file beside it wins over metadata.jsonl."""
        name = one_form(picture.name)
        for start in (name, one_form(picture.stem)):
            for suffix in SUFFIXES:
                file = self._files.get(start + suffix)
                if file is None:
                    continue
                again = file in self._users
                self._users.setdefault(file, []).append(picture)
                captions = self._read(file, quietly=again)
                if captions:
                    self._found.add(name)
                    return captions
        if name in self._lines:
            self._found.add(name)
            self._look_for_token(f"{METADATA} ({picture.name})", self._lines[name])
        return self._lines.get(name, ())

    def finish(self, left_out: Iterable[str]) -> list[Remark]:
        """All remarks, those on captions without a picture too; call it after the last picture.

        left_out: names of pictures that were left out, whose captions need no remark of their own.
        """
        left_out = {one_form(name) for name in left_out}
        starts = left_out | {Path(name).stem for name in left_out}
        taken = {
            one_form(start): file.name
            for file, pictures in self._users.items()
            for picture in pictures
            for start in (picture.stem, picture.name)
        }
        for file in self._files.values():
            start, users = one_form(file.stem), self._users.get(file, [])
            if len(users) > 1:
                self.remarks.append(shared(file, "the caption", users))
            elif users or start in starts:
                continue
            elif start in taken:
                self._remark(file.name, f"is ignored in favor of {printable(taken[start])}", "keep only one")
            else:
                self._remark(file.name, "matches no image", "give it the name of its image")
        for name in self._lines.keys() - self._found - left_out:
            self._remark(f"{METADATA} ({name})", "matches no image", "correct its file_name")
        return self.remarks

    def _remark(self, file: str, problem: str, remedy: str) -> None:
        self.remarks.append(Remark(printable(file), problem, remedy))

    def _read(self, file: Path, quietly: bool) -> tuple[str, ...]:
        """The captions in a text file. quietly: without remarks, which have been made."""
        told, captions = len(self.remarks), ()
        try:
            captions = _captions(re.split(r"\r\n?|\n", read_regular(file, LONGEST).decode("utf-8-sig")))
            if captions:
                captions = self._bounded(file.name, captions)
                self._look_for_token(file.name, captions)
            else:
                self._remark(file.name, "is empty", f"add a caption or remove the file; {_FALLBACK}")
        except UnicodeDecodeError:
            self._remark(file.name, "cannot be read as UTF-8 text", f"save it as UTF-8; {_FALLBACK}")
        except OSError as error:
            if error.errno == errno.EFBIG:
                self._remark(file.name, f"is longer than {LONGEST >> 10} KiB", f"shorten it; {_FALLBACK}")
            elif error.errno in (errno.EISDIR, errno.EINVAL):  # a pipe that would never end
                self._remark(file.name, "is not a regular file", f"remove it; {_FALLBACK}")
            else:
                self._remark(file.name, f"cannot be read ({error.strerror or error})", f"check it; {_FALLBACK}")
        if quietly:
            del self.remarks[told:]
        return captions

    def _bounded(self, file: str, captions: tuple[str, ...]) -> tuple[str, ...]:
        if len(captions) > MOST:
            self._remark(
                file, f"has {len(captions)} captions, one per line", f"only the first {MOST} are used: keep the best"
            )
        return captions[:MOST]

    def _look_for_token(self, file: str, captions: Sequence[str]) -> None:
        if self.token is None:
            return
        lacking = [number for number, text in enumerate(captions, 1) if not holds(text, self.token)]
        if len(lacking) == len(captions):
            remedy = "add the token, or the subject is learned without it"
            self._remark(file, f"does not contain the token {self.token!r}", remedy)
        elif lacking:
            which = f"caption {lacking[0]}" if len(lacking) == 1 else f"captions {', '.join(map(str, lacking[:9]))}"
            self._remark(
                file,
                f"does not contain the token {self.token!r} in {which} of {len(captions)}",
                "add it to each: every line is a caption of its own, so keep a long caption on one line",
            )

    def _read_metadata(self, path: Path) -> None:
        try:
            lines = read_regular(path, LONGEST_METADATA).decode("utf-8-sig").split("\n")
        except UnicodeDecodeError:
            self._remark(path.name, "cannot be read as UTF-8 text", f"save it as UTF-8; {_FALLBACK}")
            return
        except OSError as error:
            self._remark(path.name, f"cannot be read ({error.strerror or error})", f"check it; {_FALLBACK}")
            return
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name, text = entry["file_name"], entry["text"]
                captions = _captions(text if isinstance(text, list) else [text])
                "".join(captions).encode()  # JSON can write halves of characters
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                wanted = '{"file_name": "1.jpg", "text": "..."}'
                self._remark(path.name, f"line {number} is malformed", f"write {wanted}; the line is ignored")
                continue
            if not captions or not isinstance(name, str):
                self._remark(path.name, f"line {number} has an empty caption", f"add one; {_FALLBACK}")
                continue
            if one_form(name) in self._lines:
                remedy = "only its last line is used: for several captions, set text to a list"
                self._remark(f"{path.name} ({name})", "is listed twice", remedy)
            self._lines[one_form(name)] = self._bounded(f"{path.name} ({name})", captions)


def shared(file: Path, what: str, pictures: Sequence[Path]) -> Remark:
    """The remark on a file that is `what` ("the mask", ...) of several pictures, which have one name."""
    both = " and ".join(printable(picture.name) for picture in pictures)
    own = one_form(pictures[-1].name) + one_form(file.name).removeprefix(one_form(pictures[-1].stem))
    remedy = f"rename one of them, or give it its own file, {printable(own)}"
    return Remark(printable(file.name), f"is {what} of both {both}", remedy)


def _captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Those that are not empty, each on one line."""
    lines = (" ".join(text.split()) for text in texts)
    return tuple(line for line in lines if line)
