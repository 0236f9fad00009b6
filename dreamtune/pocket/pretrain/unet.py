"""Stage 3, the UNet: v-prediction on zero-terminal-SNR noise (Lin et al., arXiv 2305.08891) with caption dropout."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dreamtune.models.families import USUAL

from .config import PretrainConfig
from .data import RenderSet
from .schedule import Ema, Stage, constant_then_cosine, optimizers, set_lr, update
from .text import tokenize
from .vae import encode_set, to_pixels

GRID_PROMPTS = (
    "a cat on the beach",
    "a cat in the snow",
    "a red car in the city",
    "a blue robot in the forest",
    "a green car under water",
    "a dog at night",
    "a purple robot on a red carpet",
    "a house in the desert",
    "a yellow mug in a room",
    "a pink cat on the grass",
    "a dog on the beach",
    "a robot in the snow",
    "a striped orange cat on the grass",
    "a spotted white mug in the city",
    "a blue cat wearing a red hat in the snow",
    "a dog with purple stripes in a room",
    "a cat and a dog on the beach",
    "a red cat on the left and a blue dog on the right on the grass",
    "a yellow robot and a green mug in a room",
    "a house and a car in the desert",
    "a sks cat on the beach",
    "a sks robot in a room",
    "a black cat on a red carpet",
    "a green robot wearing a yellow hat in the city",
)

FOCUS = (500, 950)
"""Timesteps at which a caption of the other pattern costs most: after them the picture itself shows its pattern."""


def new_unet(config: PretrainConfig) -> UNet2DConditionModel:
    """An untrained UNet with cross-attention at every level, the finest included."""
    n = len(config.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=config.size // 4,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * n,
        up_block_types=("CrossAttnUpBlock2D",) * n,
        cross_attention_dim=config.text_width,
        attention_head_dim=config.unet_heads,
        norm_num_groups=16,
    )
    if not torch.cuda.is_available():
        # On CPUs the fused attention's backward pass in bf16 takes 40 % of a step; the plain one makes it 1.6x faster.
        unet.set_attn_processor(AttnProcessor())
    return unet


def new_scheduler() -> DDIMScheduler:
    """The scheduler that the base ships: DDIM on trailing timesteps of a zero-terminal-SNR schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # without effect on trailing timesteps, but diffusers warns of any other value
    )


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    prompts: list[str],
    seed: int = 0,
    guidance: float = USUAL["pocket"].guidance,
    steps: int = USUAL["pocket"].steps,
) -> np.ndarray:
    """(n, h, w, 3) uint8 pictures of `prompts` by classifier-free guidance."""
    device = next(unet.parameters()).device
    ids = tokenize(tokenizer, [*prompts, *[""] * len(prompts)]).to(device)
    states = encoder(ids).last_hidden_state
    scheduler = new_scheduler()
    scheduler.set_timesteps(steps)
    shape = (len(prompts), unet.config["in_channels"], unet.config["sample_size"], unet.config["sample_size"])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    for t in scheduler.timesteps:
        told, untold = unet(torch.cat([x, x]), t, states).sample.chunk(2)
        x = scheduler.step(untold + guidance * (told - untold), int(t), x).prev_sample
    pictures = torch.cat([vae.decode(z).sample for z in x.split(32)])
    return to_pixels(pictures)


def save_grid(pictures: np.ndarray, columns: int, file: Path, zoom: int = 3) -> None:
    """Write pictures as a grid, each enlarged `zoom` times."""
    rows = [np.concatenate(list(pictures[i : i + columns]), 1) for i in range(0, len(pictures), columns)]
    grid = np.concatenate(rows)
    Image.fromarray(grid).resize((grid.shape[1] * zoom, grid.shape[0] * zoom), Image.Resampling.BICUBIC).save(file)


def timesteps(config: PretrainConfig, device: str) -> Tensor:
    """(batch_size,) timesteps, stratified: `focus_share` of them in FOCUS, the others in 0 to 999."""
    focused = round(config.batch_size * config.focus_share)
    parts = []
    for count, (low, high) in ((config.batch_size - focused, (0, 1000)), (focused, FOCUS)):
        strata = (torch.arange(count, device=device) + torch.rand(1, device=device)) / max(count, 1)
        parts.append(low + strata * (high - low))
    return torch.cat(parts).long().clamp_(0, 999)


def loss_weights(config: PretrainConfig, data: RenderSet) -> Tensor:
    """(N, 1, s, s) half-precision weights of mean 1: `subject_weight` where a latent cell touches a subject."""
    side = config.size // 4
    weights = torch.empty(len(data), 1, side, side, dtype=torch.half)
    for i in range(0, len(data), 1000):
        touched = F.max_pool2d(torch.from_numpy(data.labels[i : i + 1000] > 0).float()[:, None], 4)
        w = 1 + (config.subject_weight - 1) * touched
        weights[i : i + 1000] = (w / w.mean((1, 2, 3), keepdim=True)).half()
    return weights


def train_unet(
    config: PretrainConfig,
    data: RenderSet,
    vae: AutoencoderKL,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    work: Path,
    device: str,
) -> UNet2DConditionModel:
    """Train for the stage's minutes against a frozen text encoder; every ten minutes a sample grid and a snapshot."""
    torch.manual_seed(config.seed)
    folder = work / "unet"
    # All of it lies where the training runs: a step must wait for neither the host's memory nor its answers.
    latents, weights = encode_set(vae, data).to(device), loss_weights(config, data).to(device)
    ids = tokenize(tokenizer, [c for row in data.captions for c in row]).view(len(data), -1, config.max_tokens)
    ids, empty = ids.short().to(device), tokenize(tokenizer, [""]).to(device)
    unet = new_unet(config)
    if (folder / "start").exists():
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "start").float().state_dict())
    unet.to(device)
    ema = Ema([unet], 0.998)
    opts = optimizers({"unet": (unet, 1.0)}, 1e-3)
    stage = Stage(folder, config.minutes["unet"], {"unet": unet, "ema": ema, "muon": opts[0], "adamw": opts[1]})
    torch.manual_seed(config.seed + stage.step)
    alphas = new_scheduler().alphas_cumprod.to(device)
    signal, noise_level = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    running, shown = None, stage.seconds
    batch = config.batch_size
    encoder.requires_grad_(False)
    unet.train()
    # The host launches this small network's kernels at nine steps a second; compiled to graphs they wait for nothing.
    predict = torch.compile(unet, mode="reduce-overhead") if device == "cuda" else unet
    for spent in stage:
        set_lr(opts, config.unet_lr * constant_then_cosine(spent, stage.step, 100, turn=0.5))
        pick = torch.randint(0, len(data), (batch,), device=device)
        z = latents[pick].float()
        tokens = ids[pick, torch.randint(0, config.captions, (batch,), device=device)].long()
        dropped = torch.rand(batch, 1, device=device) < config.caption_dropout
        tokens = torch.where(dropped, empty, tokens)
        t = timesteps(config, device)
        noise = torch.randn_like(z)
        a, s = signal[t], noise_level[t]
        with torch.autocast(device, torch.bfloat16):
            states = encoder(tokens).last_hidden_state
            v = predict(a * z + s * noise, t, states).sample.float()
        loss = ((v - (a * noise - s * z)).square() * weights[pick].float()).mean()
        update(opts, unet, loss)
        ema.update()
        stage.samples += batch
        running = loss.detach() if running is None else running.lerp(loss.detach(), 0.02)
        if stage.step % 100 == 0:
            stage.log(loss=running.item(), minutes_left=(stage.budget - stage.seconds) / 60)
        if stage.seconds - shown > 600:
            shown = stage.seconds
            _snapshot(unet, ema, encoder, tokenizer, vae, folder, f"{stage.samples // 1000:05d}k")
    return _snapshot(unet, ema, encoder, tokenizer, vae, folder, "final")


def _snapshot(
    unet: UNet2DConditionModel,
    ema: Ema,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    folder: Path,
    name: str,
) -> UNet2DConditionModel:
    """Save the averaged weights and a grid of pictures drawn with them."""
    ema.swap()
    unet.eval()
    state = torch.get_rng_state()
    save_grid(sample(unet, encoder, tokenizer, vae, list(GRID_PROMPTS)), 8, folder / f"grid-{name}.png")
    torch.set_rng_state(state)
    unet.save_pretrained(folder / "model")
    if name == "final":
        return unet
    ema.swap()
    unet.train()
    return unet
