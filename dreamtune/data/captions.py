"""Captions of the pictures in a folder: a text file beside each, or one metadata.jsonl for all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from dreamtune.data.images import Remark, printable
from dreamtune.words import holds

SUFFIXES = (".txt", ".caption")
"""Of a file beside a picture; the first that is there counts."""
METADATA = "metadata.jsonl"
"""A JSON object with "file_name" and "text" in each line, as Hugging Face's image folders have it."""
LONGEST = 64 << 10
"""Bytes of a text file that can be a caption."""
_FALLBACK = "the instance prompt is used"


class Captions:
    """Finds the caption of a picture, and remarks on what is wrong with captions."""

    def __init__(self, entries: Iterable[Path], token: str | None = None) -> None:
        self.token = token
        """Word that captions should hold, if it is known."""
        self.remarks: list[Remark] = []
        self._files: dict[str, Path] = {}
        self._lines: dict[str, str] = {}
        self._used: set[str] = set()
        for path in entries:
            if path.suffix.lower() in SUFFIXES:
                self._files[path.stem + path.suffix.lower()] = path
            elif path.name == METADATA:
                self._read_metadata(path)

    def owns(self, path: Path) -> bool:
        """Whether a file is one of captions and not to be tried as a picture."""
        return path.suffix.lower() in SUFFIXES or path.name == METADATA

    def of(self, picture: Path) -> str | None:
        """The caption of a picture on one line; the text file beside it wins over metadata.jsonl. None without one."""
        for suffix in SUFFIXES:
            file = self._files.get(picture.stem + suffix)
            if file is not None:
                self._used.add(file.name)
                text = self._read(file)
                if text:
                    self._look_for_token(file.name, text)
                    self._used.add(picture.name)
                    return text
        if picture.name in self._lines:
            self._used.add(picture.name)
            text = self._lines[picture.name]
            self._look_for_token(f"{METADATA} ({picture.name})", text)
            return text
        return None

    def finish(self, left_out: Iterable[str]) -> list[Remark]:
        """All remarks, those on captions without a picture too; call it after the last picture.

        left_out: names of pictures that were left out, whose captions need no remark of their own.
        """
        left_out = set(left_out)
        stems = {Path(name).stem for name in left_out}
        taken = {Path(name).stem: name for name in self._used if Path(name).suffix.lower() in SUFFIXES}
        for file in self._files.values():
            if file.name in self._used or file.stem in stems:
                continue
            if file.stem in taken:
                self._remark(file.name, f"is not used, since there is {printable(taken[file.stem])}", "keep one")
            else:
                self._remark(file.name, "belongs to no picture", "name it after its picture")
        for name in self._lines.keys() - self._used - left_out:
            self._remark(f"{METADATA} ({name})", "belongs to no picture", "correct its file_name")
        return self.remarks

    def _remark(self, file: str, problem: str, remedy: str) -> None:
        self.remarks.append(Remark(printable(file), problem, remedy))

    def _read(self, file: Path) -> str | None:
        try:
            if not file.is_file():  # a folder, a pipe that would never end
                self._remark(file.name, "is no regular file", f"remove it; {_FALLBACK}")
                return None
            if file.stat().st_size > LONGEST:
                self._remark(file.name, f"is longer than {LONGEST >> 10} KiB", f"write a sentence; {_FALLBACK}")
                return None
            text = " ".join(file.read_text(encoding="utf-8-sig").split())
        except UnicodeDecodeError:
            self._remark(file.name, "cannot be read as UTF-8 text", f"save it as UTF-8; {_FALLBACK}")
            return None
        except OSError as error:
            self._remark(file.name, f"cannot be read ({error.strerror or error})", f"check it; {_FALLBACK}")
            return None
        if not text:
            self._remark(file.name, "is empty", f"write a caption or remove it; {_FALLBACK}")
        return text

    def _look_for_token(self, file: str, text: str) -> None:
        if self.token is not None and not holds(text, self.token):
            remedy = "write the token into it: the subject is learned without its name"
            self._remark(file, f"does not hold the token {self.token!r}", remedy)

    def _read_metadata(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n") if path.is_file() else []
        except (OSError, UnicodeDecodeError):
            self._remark(path.name, "cannot be read as UTF-8 text", f"save it as UTF-8; {_FALLBACK}")
            return
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                name, text = entry["file_name"], " ".join(entry["text"].split())
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                wanted = '{"file_name": "1.jpg", "text": "..."}'
                self._remark(path.name, f"line {number} is not as expected", f"write {wanted}; the line is ignored")
                continue
            if text and isinstance(name, str):
                self._lines[name] = text
            else:
                self._remark(path.name, f"line {number} has an empty caption", f"write one; {_FALLBACK}")
