"""dreamtune: teach Stable Diffusion a subject with a small adapter.

Importing this package loads nothing heavy; the parts are imported by their own names (`dreamtune.adapters`,
`dreamtune.pipelines.train`, ...). For notebooks there is :func:`analyze`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def analyze(adapters: Sequence[str | Path], out: str | Path | None = None, **settings: Any) -> Any:
    """Compare adapter files by the directions they change; the Report shows itself at the end of a notebook's cell.

    out: new folder for its files, if they are wanted; settings: see dreamtune.pipelines.analysis_config. Raises what
    dreamtune.pipelines.analyze does.
    """
    import importlib

    # by name: nothing below may import the pipelines, and this package stands below all
    flow = importlib.import_module("dreamtune.pipelines.analyze")
    return flow.analyze(flow.AnalyzeConfig(adapters=[str(path) for path in adapters], **settings), out)
