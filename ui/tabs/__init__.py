"""One module per tab of the app; each has a class that places its components."""

from .adapters import LibraryTab
from .analyze import AnalyzeTab
from .fuse import FuseTab
from .generate import GenerateTab
from .jobs import JobsTab
from .train import TrainTab

__all__ = ["AnalyzeTab", "FuseTab", "GenerateTab", "JobsTab", "LibraryTab", "TrainTab"]
