"""Generation metadata as text chunks inside the image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dreamtune import __version__


def provenance(settings: Mapping[str, Any]) -> dict[str, str]:
    """PNG text chunks: "dreamtune" holds all `settings` and the version as JSON, "parameters" a part for other tools.

    Needs prompt, negative_prompt, seed, steps, guidance, size, sampler and base among `settings`.
    """
    complete = {**settings, "version": __version__}
    return {"parameters": _parameters(complete), "dreamtune": json.dumps(complete, ensure_ascii=False)}


def _parameters(settings: Mapping[str, Any]) -> str:
    """In the form of AUTOMATIC1111's web UI, which galleries and other tools show."""
    fields = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler"],
        "CFG scale": settings["guidance"],
        "Seed": settings["seed"],
        "Size": f"{settings['size']}x{settings['size']}",
        "Model": settings["base"],
        "Version": f"dreamtune {settings['version']}",
    }
    negative = f"\nNegative prompt: {settings['negative_prompt']}" if settings["negative_prompt"] else ""
    return f"{settings['prompt']}{negative}\n" + ", ".join(f"{key}: {value}" for key, value in fields.items())
