"""Evaluation: subject fidelity, prompt fidelity, and what happened to the class."""

from .best_step import BestStep, Score
from .evaluation import Evaluation, Measurement, PromptFigures, Sampling
from .fidelity import SubjectFidelity, subject_fidelity
from .judges import Judge, check_judge, load_judge, reference_pictures
from .personalization import Personalization, measure_personalization
from .prompts import PromptPair, default_prompts, parse_prompts

__all__ = [
    "BestStep",
    "Evaluation",
    "Judge",
    "Measurement",
    "Personalization",
    "PromptFigures",
    "PromptPair",
    "Sampling",
    "Score",
    "SubjectFidelity",
    "check_judge",
    "default_prompts",
    "load_judge",
    "measure_personalization",
    "parse_prompts",
    "reference_pictures",
    "subject_fidelity",
]
