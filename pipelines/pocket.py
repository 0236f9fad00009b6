"""Sample images from the embedded base's world."""

from __future__ import annotations

from pathlib import Path

from dreamtune.errors import ConfigError, first_line


def draw_pocket(subject: int, n: int, out: str | Path, cls: str | None = None, size: int | None = None) -> list[Path]:
    """Draw `n` photographs of the pocket subject with number `subject` into the folder `out` as 00.png, 01.png, ...

    cls: its class, any if not given; size: side in pixels, the base's own if not given. The same arguments give the
    same images. Raises ConfigError for values that cannot be drawn, a folder that holds such files already, or one
    that cannot be written.
    """
    from dreamtune.pipelines.output import check_place, write_png
    from dreamtune.pocket import draw_subject
    from dreamtune.pocket.world import CLASSES

    folder = Path(out).expanduser()
    check_place(folder)
    if cls is not None and cls not in CLASSES:
        raise ConfigError(f"unknown pocket class {cls!r}: use one of {', '.join(CLASSES)}")
    try:
        pictures = draw_subject(subject, n, size, cls)
    except ValueError as error:
        raise ConfigError(first_line(error)) from None
    files = [folder / f"{index:02d}.png" for index in range(n)]
    for path in files:
        if path.exists():
            raise ConfigError(f"{path} already exists: choose another folder")
    for path, picture in zip(files, pictures, strict=True):
        try:
            write_png(path, picture)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None
    return files
