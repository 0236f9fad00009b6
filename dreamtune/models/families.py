"""Defaults per family of bases: how images are generated, and how prompts name a subject.

One table, which training, generation, scores, fusions, the forecast of interference and the benchmarks read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Usual:
    """Defaults for the bases of one family."""

    steps: int
    """Denoising steps of a picture."""
    guidance: float
    """Classifier-free guidance, 1 for none."""
    subject: str = "a photo of {token} {class}"
    """Prompt of a subject in no place."""
    thing: str = "a photo of a {class}"
    """Prompt of any thing of a class in no place."""

    def prompt(self, token: str, class_word: str) -> str:
        """`subject` or `thing` with these words, either of which may be ""; "a photo" if both are."""
        if not (token or class_word):
            return "a photo"
        template = self.subject if token else self.thing
        return template.format(**{"token": token, "class": class_word}).strip()


_STABLE_DIFFUSION = Usual(steps=25, guidance=5.0)

USUAL = {
    "sd1": _STABLE_DIFFUSION,
    "sd2": _STABLE_DIFFUSION,
    "sdxl": _STABLE_DIFFUSION,
    # Above 3 colors become glaring and the likeness no better (docs/log.md). Most of the captions it was trained on
    # read "a cat on the beach".
    "pocket": Usual(steps=20, guidance=2.5, subject="a {token} {class}", thing="a {class}"),
}
"""By family of the base, see Base.family."""
