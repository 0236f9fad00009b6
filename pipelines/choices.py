"""What can be chosen in the app, in words, without loading the libraries that do it; a test compares the names."""

from __future__ import annotations

METHODS = {
    "lora": "two small factors per layer; the usual choice",
    "dora": "LoRA whose columns keep a length of their own",
    "lora-dash": "LoRA that pushes the directions it has found useful",
    "spectral-a": "adds to the strongest singular vectors",
    "spectral-r": "rotates the strongest singular vectors",
    "loha": "product of two LoRAs; high rank, few numbers",
    "lokr": "Kronecker product; the smallest files",
    "orthogonal": "small factors with orthogonal directions",
    "full": "every weight; the largest files",
}
"""Method of training -> what it is."""
FUSIONS = {
    "sum": "all changes added up, exact",
    "mean": "their weighted mean",
    "ties": "large changes alone, by majority of signs",
    "dare": "a random part of each, scaled up",
    "magnitude": "the largest numbers of each",
    "tsv": "leading directions of each, made independent",
    "knots": "aligned by a common basis, then as ties",
    "gradient": "each keeps its own outputs, as far as one change can",
    "custom-diffusion": "each keeps its own prompts exactly, the base the others",
}
"""Method of fusion -> what it is."""
AXES = ("strength", "seed", "guidance", "steps", "scheduler", "denoise")
"""What a grid can compare."""
SAMPLERS = (
    "auto",
    "ddim",
    "ddpm",
    "pndm",
    "euler",
    "euler-a",
    "heun",
    "dpm++2m",
    "dpm++2m-karras",
    "dpm++2m-sde",
    "deis",
    "unipc",
)
"""Names of samplers."""
