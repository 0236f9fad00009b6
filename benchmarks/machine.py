"""What a benchmark was run on: goes into every file of results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dreamtune import __version__
from dreamtune.storage import atomic

RESULTS = Path(__file__).parent / "results"
"""Where results are kept that documents are made from."""
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Device, versions and commit; no name and no path of this machine."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "versions": {"dreamtune": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def write_results(path: Path, report: dict[str, Any]) -> None:
    """As JSON, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def pick_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """Of this working tree; with a + if something in it has been changed. None outside of git."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=Path(__file__).parent,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()
