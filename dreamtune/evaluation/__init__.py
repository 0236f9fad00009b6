"""Figures for results: how much a picture shows the subject, and how much of the prompt."""

from .fidelity import SubjectFidelity, prompt_fidelity, subject_fidelity
from .personalization import Personalization, measure_personalization

__all__ = ["Personalization", "SubjectFidelity", "measure_personalization", "prompt_fidelity", "subject_fidelity"]
