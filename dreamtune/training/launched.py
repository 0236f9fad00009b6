"""What `accelerate launch` told this process."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this is the only process of its training, or the first one, the only one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """Whether this is the only process of its training."""
    return os.environ.get("WORLD_SIZE", "1") == "1"
