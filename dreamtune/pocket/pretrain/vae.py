"""Stage 1, the VAE: an AutoencoderKL at f = 4 whose latents are then whitened exactly inside its 1x1 convolutions."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .config import PretrainConfig
from .data import RenderSet
from .schedule import Stage, constant_then_cosine, optimizers, set_lr, update


def new_vae(config: PretrainConfig) -> AutoencoderKL:
    """An untrained VAE."""
    n = len(config.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=config.vae_channels,
        layers_per_block=config.vae_layers,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=config.size,
        mid_block_add_attention=False,
    )


def to_tensor(images: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float in -1..1."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(pictures: Tensor) -> np.ndarray:
    """(n, 3, h, w) float, about -1..1 -> (n, h, w, 3) uint8."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def digest(*weights: Tensor) -> str:
    """Short hash of some weights, for the names of what is derived from them."""
    parts = (w.detach().float().cpu().numpy().tobytes() for w in weights)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


@torch.no_grad()
def encode_set(vae: AutoencoderKL, data: RenderSet) -> Tensor:
    """(N, c, s, s) half-precision latent means of a render set, kept beside it."""
    target = data.folder / f"latents-{digest(cast(nn.Conv2d, vae.quant_conv).weight)}.pt"
    if target.exists():
        return torch.load(target, weights_only=True)
    device = next(vae.parameters()).device
    parts = [
        vae.encode(to_tensor(data.images[i : i + 256]).to(device)).latent_dist.mode().half().cpu()
        for i in range(0, len(data), 256)
    ]
    latents = torch.cat(parts)
    torch.save(latents, target)
    return latents


@torch.no_grad()
def round_trip(vae: AutoencoderKL, data: RenderSet, every: int) -> np.ndarray:
    """(N, h, w, 3) uint8: every `every`-th picture as the VAE gives it back, the others as they are; kept beside it."""
    weights = cast(nn.Conv2d, vae.quant_conv).weight, vae.decoder.conv_out.weight
    target = data.folder / f"round-trip-{every}-{digest(*weights)}.npy"
    if target.exists():
        return np.load(target, mmap_mode="r")
    device = next(vae.parameters()).device
    images = np.array(data.images)
    chosen = np.arange(0, len(images), every)
    for i in range(0, len(chosen), 64):
        pick = chosen[i : i + 64]
        pictures = vae.decode(vae.encode(to_tensor(images[pick]).to(device)).latent_dist.mode()).sample
        images[pick] = to_pixels(pictures)
    np.save(target, images)
    return images


@torch.no_grad()
def psnr(vae: AutoencoderKL, data: RenderSet, count: int = 512) -> dict[str, float]:
    """PSNR in dB of reconstructions from latent means: over all pixels, and inside subject masks."""
    device = next(vae.parameters()).device
    total, inside, pixels, masked = 0.0, 0.0, 0, 0
    for i in range(0, min(count, len(data)), 64):
        x = to_tensor(data.images[i : i + 64]).to(device)
        mask = torch.from_numpy(data.labels[i : i + 64] > 0).to(device)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((y - x) / 2).square().mean(1)
        total, pixels = total + error.sum().item(), pixels + error.numel()
        inside, masked = inside + error[mask].sum().item(), masked + int(mask.sum())
    return {
        "psnr": -10 * float(np.log10(total / pixels)),
        "psnr_subjects": -10 * float(np.log10(inside / masked)),
    }


@torch.no_grad()
def whiten(vae: AutoencoderKL, data: RenderSet, power: float) -> list[float]:
    """Rotate latents to their principal axes, divide axis i by sigma_i ** power, centre them, scale to unit variance.

    The map and its inverse are folded into `quant_conv` and `post_quant_conv`, so nothing else changes: the
    reconstruction is the same function. Returns the axes' standard deviations before scaling.
    """
    device = next(vae.parameters()).device
    chunks = [vae.encode(to_tensor(data.images[i : i + 64]).to(device)).latent_dist.mode() for i in range(0, 2048, 64)]
    z = torch.cat(chunks).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = z.mean(0)
    variance, axes = torch.linalg.eigh((z - mean).T @ (z - mean) / len(z))
    variance, axes = variance.flip(0), axes.flip(1)
    sigma = variance.clamp_min(1e-8).sqrt()
    scale = sigma**-power
    scale = scale / (sigma * scale).square().mean().sqrt()
    forward = scale[:, None] * axes.T  # (c, c): z' = forward (z - mean)
    inverse = torch.linalg.inv(forward)

    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None
    assert post is not None
    c = len(mean)
    w, b = quant.weight.double().flatten(1), cast(Tensor, quant.bias).double()
    w_mean, b_mean = forward @ w[:c], forward @ (b[:c] - mean)
    quant.weight[:c] = w_mean.view(c, -1, 1, 1).float()
    assert quant.bias is not None
    assert post.bias is not None
    quant.bias[:c] = b_mean.float()
    # The rotated noise has no diagonal covariance: replace it by its mean size, the same for every cell.
    noise = torch.cat([vae.encode(to_tensor(data.images[:64]).to(device)).latent_dist.logvar]).mean((0, 2, 3)).double()
    rotated = (forward.square() * noise.exp()[None]).sum(1)
    quant.weight[c:] = 0
    quant.bias[c:] = rotated.log().float()
    pw, pb = post.weight.double().flatten(1), post.bias.double()
    post.weight.copy_((pw @ inverse).view_as(post.weight).float())
    post.bias.copy_((pw @ mean + pb).float())
    return sigma.tolist()


def train_vae(config: PretrainConfig, data: RenderSet, held_out: RenderSet, work: Path, device: str) -> AutoencoderKL:
    """Train for the stage's minutes; L1 + 10 MSE + KL, subjects weighted threefold, and latents that survive halving.

    A quarter of the steps of the first two thirds decode a latent of half the size into the halved picture: latents
    whose coarse structure is the picture's are easier to diffuse (Skorokhodov et al., arXiv 2502.14831).
    """
    torch.manual_seed(config.seed)
    folder = work / "vae"
    vae = new_vae(config).to(device)
    opts = optimizers({"vae": (vae, 1.0)}, 2e-3)
    stage = Stage(folder, config.minutes["vae"], {"vae": vae, "muon": opts[0], "adamw": opts[1]})
    rng = np.random.default_rng(config.seed + stage.step)
    batch = 16
    for spent in stage:
        set_lr(opts, 2e-3 * constant_then_cosine(spent, stage.step, 100, turn=0.3, floor=0.01))
        pick = np.sort(rng.integers(0, len(data), batch))
        x = to_tensor(data.images[pick]).to(device)
        weight = 1 + 2 * torch.from_numpy(data.labels[pick] > 0).float().to(device)[:, None]
        posterior = vae.encode(x).latent_dist
        z = posterior.sample()
        if spent < 0.67 and rng.random() < 0.25:
            z, x, weight = (F.avg_pool2d(v, 2) for v in (z, x, weight))
        y = vae.decode(z).sample
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        error = y - x
        loss = (weight * (error.abs() + 10 * error.square())).mean() / weight.mean() + 2e-4 * kl
        update(opts, vae, loss)
        stage.samples += batch
        if stage.step % 400 == 0:
            stage.log(loss=loss.item(), kl=kl.item(), **psnr(vae, held_out, 256))
    vae.eval()
    sigma = whiten(vae, data, config.whitening)
    vae.register_to_config(scaling_factor=1.0)
    stage.log(**psnr(vae, held_out), sigma_first=sigma[0], sigma_last=sigma[-1])
    vae.save_pretrained(folder / "model")
    return vae


def finish_decoder(
    config: PretrainConfig, vae: AutoencoderKL, data: RenderSet, held_out: RenderSet, work: Path, device: str
) -> AutoencoderKL:
    """Train the decoder alone for the stage's minutes: the latents, and so a UNet trained on them, stay as they are.

    Latents get noise of 3 % of their size, since those that a UNet makes are never exact.
    """
    torch.manual_seed(config.seed)
    folder = work / "decoder"
    parts = torch.nn.ModuleDict({"decoder": vae.decoder, "post": cast(torch.nn.Module, vae.post_quant_conv)})
    parts.requires_grad_(True)
    opts = optimizers({"decoder": (parts, 1.0)}, 1e-3)
    stage = Stage(folder, config.minutes["decoder"], {"parts": parts, "muon": opts[0], "adamw": opts[1]})
    rng = np.random.default_rng(config.seed + stage.step)
    batch = 16
    for spent in stage:
        set_lr(opts, 1e-3 * constant_then_cosine(spent, stage.step, 50, turn=0.2, floor=0.005))
        pick = np.sort(rng.integers(0, len(data), batch))
        x = to_tensor(data.images[pick]).to(device)
        weight = 1 + 2 * torch.from_numpy(data.labels[pick] > 0).float().to(device)[:, None]
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode()
        error = vae.decode(z + 0.03 * torch.randn_like(z)).sample - x
        loss = (weight * (0.5 * error.abs() + 10 * error.square())).mean() / weight.mean()
        update(opts, parts, loss)
        stage.samples += batch
        if stage.step % 400 == 0:
            stage.log(loss=loss.item(), **psnr(vae, held_out, 256))
    stage.log(**psnr(vae, held_out))
    vae.save_pretrained(folder / "model")
    return vae
