"""Sizes, budgets and pretraining distribution of the pocket base."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..world import CLASSES, DEFAULT_SIZE


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that, with the code, decides the weights. The model card stores it."""

    seed: int = 0
    size: int = DEFAULT_SIZE
    """Side of the pictures in pixels; a multiple of 16."""
    classes: tuple[str, ...] = ("dog", "cat", "car", "house", "robot", "mug")
    """Classes that the UNet learns. The renderer, the VAE and the evaluators know all twelve."""
    sizes: tuple[str, ...] = ("mid", "big", "big")
    """Size labels of lone subjects in the UNet's pictures, drawn uniformly."""
    pair_share: float = 0.2
    """Share of two-subject pictures in the UNet's data."""
    unet_pictures: int = 80_000
    world_pictures: int = 60_000
    """Pictures of the whole world, for the VAE and the evaluators."""
    evaluator_pictures: int = 24_000
    individuals: int = 100_000
    """Individuals that the reader learns to tell apart: half of them are look-alikes of the other half."""
    individuals_held_out: int = 2_000
    views: int = 4
    """Pictures of each individual."""
    held_out: int = 2_000
    captions: int = 4
    """Captions kept per picture."""
    max_tokens: int = 40

    latent_channels: int = 16
    vae_channels: tuple[int, ...] = (32, 32, 32)
    """f = 4: two halvings. Equal widths, since blocks without a resnet of their own (layers 0) cannot change them."""
    vae_layers: int = 0
    whitening: float = 0.5
    """Latent principal axis i is divided by sigma_i ** whitening (1 = white, 0 = as it is)."""
    text_width: int = 160
    text_layers: int = 3
    unet_channels: tuple[int, ...] = (64, 128, 192)
    unet_heads: int = 4
    batch_size: int = 64
    unet_lr: float = 1.2e-3
    subject_weight: float = 3.5
    """Loss weight of latent cells inside a subject's box, before normalisation."""
    focus_share: float = 0.5
    """Share of each batch's timesteps drawn from 500 to 950, where a pattern is decided, beside those from all."""
    caption_dropout: float = 0.1

    minutes: dict[str, float] = field(
        default_factory=lambda: {
            "vae": 16.0,
            "text": 4.0,
            "words": 60.0,
            "decoder": 12.0,
            "unet": 150.0,
            "finder": 6.0,
            "reader": 90.0,
            "image-text": 2.0,
        }
    )
    """Wall-clock budget of each stage."""

    def __post_init__(self) -> None:
        """Check the distribution; ValueError names what is wrong."""
        unknown = set(self.classes) - set(CLASSES)
        if unknown:
            raise ValueError(f"unknown classes {sorted(unknown)}: choose from {', '.join(CLASSES)}")
        if self.size % 16:
            raise ValueError(f"size is {self.size}; the VAE and the UNet need a multiple of 16")
