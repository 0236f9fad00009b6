"""The choices of methods, fusions, grids and samplers by name, without loading the libraries that implement them."""

from __future__ import annotations

from typing import Any

METHODS = {
    "lora": "two low-rank factors per layer; the usual choice",
    "dora": "LoRA with separate magnitude and direction",
    "lora-dash": "LoRA that amplifies the directions it found useful",
    "spectral-a": "adds to the top singular vectors",
    "spectral-r": "rotates the top singular vectors",
    "loha": "product of two LoRAs; high rank, few parameters",
    "lokr": "Kronecker product; the smallest files",
    "orthogonal": "LoRA on orthogonal directions, made for fusion",
    "full": "trains every weight; the largest files",
}
"""Method of training -> what it is; a test compares the names with the registry of adapters."""
FUSIONS = {
    "sum": "exact sum of all changes",
    "mean": "weighted mean of the changes",
    "ties": "largest entries only, signs by majority",
    "dare": "random entries of each, rescaled",
    "magnitude": "largest entries of each",
    "tsv": "top directions of each, decorrelated",
    "knots": "aligned in a common basis, then ties",
    "gradient": "keeps each adapter's outputs as well as one change can",
    "custom-diffusion": "exact on each adapter's own prompts, the base on others",
}
"""Method of fusion -> what it is; a test compares the names with the registry of fusions."""
THINNED = ("ties", "dare", "magnitude", "knots")
"""Fusions with a density."""
RECORDED = ("gradient", "custom-diffusion")
"""Fusions that need a recording of what layers see while each adapter is used."""
GRID = ("strength", "seed", "guidance", "steps", "scheduler", "denoise")
"""What a grid can compare: these settings, and strength, a factor on the strength of all adapters."""
AUTO_SAMPLER = "auto"
"""The sampler that the base ships."""
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}),
    "dpm++2m-karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++2m-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Sampler -> diffusers' class, and the options that set it apart."""
