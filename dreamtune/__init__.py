"""dreamtune: teach Stable Diffusion a subject with a small adapter.

Importing this package loads nothing heavy; the parts are imported by their own names (`dreamtune.adapters`,
`dreamtune.pipelines.train.run`, ...). For notebooks there are :func:`analyze` and :func:`mask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def analyze(adapters: Sequence[str | Path], out: str | Path | None = None, **settings: Any) -> Any:
    """Compare adapter files by the directions they change; a notebook renders the returned Report.

    out: new folder for the report's files; None writes none. settings: see dreamtune.pipelines.analyze.config. Raises
    what dreamtune.pipelines.analyze.run does.
    """
    import importlib

    # by name: nothing below may import the pipelines, and this package stands below all
    flow = importlib.import_module("dreamtune.pipelines.analyze.run")
    return flow.analyze(flow.AnalyzeConfig(adapters=[str(path) for path in adapters], **settings), out)


def mask(images: str | Path, class_word: str, **settings: Any) -> Any:
    """Write masks beside the images of a folder, white where the base sees the class, for you to correct.

    settings: see dreamtune.pipelines.train.mask.MaskConfig. Returns its MaskResult and raises what
    dreamtune.pipelines.train.mask.mask does.
    """
    import importlib

    flow = importlib.import_module("dreamtune.pipelines.train.mask")
    return flow.mask(flow.MaskConfig(images=images, class_word=class_word, **settings))
