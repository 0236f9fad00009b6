"""Stage 5, the evaluators: trained on renders, half of them after a round trip through the VAE, never on an adapter."""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..evaluators.evaluators import answers, text_states
from ..evaluators.geometry import crop, presence_target
from ..evaluators.networks import HEADS, Finder, ImageText, Reader
from ..world import PATTERNS
from .config import PretrainConfig
from .data import NONE, RenderSet, identity
from .schedule import Ema, Stage, constant_then_cosine, optimizers, set_lr, update
from .traits import COUNT as TRAITS
from .traits import traits
from .vae import to_tensor

TEMPERATURE = 0.07
NETWORKS = {"finder": "finder", "reader": "reader", "image-text": "image_text"}
"""Stage and file name of each network -> its name in Evaluators."""
Model = TypeVar("Model", bound=torch.nn.Module)


def _noised(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with a little noise, of another strength each: what a UNet draws is never quite clean."""
    strength = 0.06 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return pictures + strength * torch.randn(pictures.shape, generator=generator)


def train_finder(config: PretrainConfig, data: RenderSet, images: np.ndarray, work: Path, device: str) -> Finder:
    """Train to find subjects and to tell the context. images: (N, h, w, 3), partly round-tripped."""
    torch.manual_seed(config.seed + 11)
    finder = Finder().to(device)
    opts = optimizers({"finder": (finder, 1.0)}, 2e-3)
    stage = Stage(work / "finder", config.minutes["finder"], {"finder": finder, "muon": opts[0], "adamw": opts[1]})
    generator = torch.Generator().manual_seed(config.seed + stage.step)
    boxes, contexts = torch.from_numpy(data.boxes), torch.from_numpy(data.contexts).long()
    for spent in stage:
        set_lr(opts, 2e-3 * constant_then_cosine(spent, stage.step, 50, turn=0.4, floor=0.01))
        pick = torch.randint(0, len(data), (64,), generator=generator)
        x, b = _noised(to_tensor(images[pick.numpy()]), generator), boxes[pick]
        if torch.rand((), generator=generator) < 0.5:
            x, b = (
                x.flip(3),
                torch.stack([1 - b[..., 2], b[..., 1], 1 - b[..., 0], b[..., 3]], -1) * (b.amax(-1, keepdim=True) > 0),
            )
        positive, ignored, goal = (t.to(device) for t in presence_target(b))
        with torch.autocast(device, torch.bfloat16):
            presence, found, context = finder(x.to(device))
        each = F.binary_cross_entropy_with_logits(presence, positive.float(), reduction="none")
        place = each[~ignored].mean() * 4
        reach = (found[positive] - goal[positive]).abs().mean() * 8
        told = F.cross_entropy(context.float(), contexts[pick].to(device))
        loss = place + reach + told
        update(opts, finder, loss)
        stage.samples += len(pick)
        if stage.step % 100 == 0:
            stage.log(place=place.item(), reach=reach.item() / 8, context=told.item())
    return _finish(finder, stage)


def train_reader(
    config: PretrainConfig, data: RenderSet, images: np.ndarray, views: int, work: Path, device: str
) -> Reader:
    """Train to read attributes and to tell individuals apart, all from the same hidden numbers.

    Individuals are told apart by supervised contrast (arXiv 2004.11362) among look-alikes, by one threshold for all
    of them, and by reading every individual's traits, without which the reader learns the training's individuals by
    heart. data: `views` pictures of each individual in a row, numbers 2k and 2k + 1 look-alikes, individual in slot 0.
    """
    torch.manual_seed(config.seed + 12)
    reader = Reader()
    if (start := work / "reader" / "start.safetensors").exists():
        reader.load_state_dict(load_file(start))
    tail = _IdentityTail().to(device)
    opts = optimizers({"reader": (reader.to(device), 1.0), "tail": (tail, 1.0)}, 2e-3)
    average = Ema([reader], 0.999)
    state = {"reader": reader, "tail": tail, "muon": opts[0], "adamw": opts[1], "average": average}
    stage = Stage(work / "reader", config.minutes["reader"], state)
    generator = torch.Generator().manual_seed(config.seed + stage.step)
    boxes, labels = torch.from_numpy(data.boxes), torch.from_numpy(data.attributes).long()
    known = torch.from_numpy(np.stack([traits(identity(i)) for i in range(len(data) // views)]))
    pairs = len(data) // views // 2
    for spent in stage:
        set_lr(opts, 2e-3 * constant_then_cosine(spent, stage.step, 50, turn=0.4, floor=0.01))
        chosen = torch.randint(0, pairs, (20,), generator=generator)
        individuals = torch.stack([2 * chosen, 2 * chosen + 1], 1).flatten()
        view = torch.rand(len(individuals), views, generator=generator).argsort(1)[:, :2]
        pick = (individuals[:, None] * views + view).flatten()  # two views of each in a row
        b = boxes[pick, 0]
        size = (b[:, 2:] - b[:, :2]).amax(1, keepdim=True)
        shift = 0.06 * size * torch.randn(len(pick), 2, generator=generator)
        grow = 1 + 0.08 * torch.randn(len(pick), 1, generator=generator)
        center, half = (b[:, :2] + b[:, 2:]) / 2 + shift, (b[:, 2:] - b[:, :2]) / 2 * grow
        x = crop(_noised(to_tensor(images[pick.numpy()]), generator), torch.cat([center - half, center + half], 1))
        with torch.autocast(device, torch.bfloat16):
            hidden = reader.hidden(x.to(device))
            logits, embeddings = reader.answers(hidden)
        goal = labels[pick, 0].to(device)
        loss = attribute_loss(logits, goal)
        cosines = embeddings @ embeddings.T
        likeness = (cosines / TEMPERATURE).fill_diagonal_(-1e4)
        contrast = F.cross_entropy(likeness, torch.arange(len(pick), device=device) ^ 1)
        told, apart = tail(hidden.float(), known[pick // views].to(device), cosines)
        update(opts, reader, loss + 2 * contrast + 12 * told + 2 * apart)
        average.update()
        stage.samples += len(pick)
        if stage.step % 100 == 0:
            right = {name: (logits[name].argmax(1) == goal[:, i]).float().mean().item() for i, name in enumerate(HEADS)}
            stage.log(contrast=contrast.item(), traits=told.item(), apart=apart.item(), **right)
    average.swap()
    return _finish(reader, stage)


class _IdentityTail(torch.nn.Module):
    """What the reader needs only while it learns: a head for traits, and one threshold for mates and look-alikes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(256, TRAITS)
        self.slope, self.threshold = (torch.nn.Parameter(torch.tensor(v)) for v in (15.0, 0.6))

    def forward(self, hidden: Tensor, known: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error of the traits, and the verification loss of mates against look-alikes (both scalars).

        hidden: (n, 256), known: (n, TRAITS), NaN where there is none; rows 2i and 2i + 1 show one individual, rows
        4i to 4i + 3 a pair of look-alikes. Contrast orders the mates of each picture before its look-alikes; that one
        threshold does for all pictures is what this adds.
        """
        there = known.isfinite()
        told = (self.head(hidden) - known.nan_to_num())[there].square().mean()
        who = torch.arange(len(hidden), device=hidden.device) // 2
        alike = (who[:, None] // 2 == who[None] // 2) & (who[:, None] != who[None])
        mates = cosines.diagonal(1)[::2]
        refused = F.softplus(self.slope * (cosines[alike] - self.threshold)).mean()
        return told, F.softplus(self.slope * (self.threshold - mates)).mean() + refused


def attribute_loss(logits: dict[str, Tensor], goal: Tensor) -> Tensor:
    """Sum of cross-entropies over HEADS; goal (n, 5) in their order.

    Stripes cover half of the coat, so that nobody can say which of a striped subject's two colours is its own: the
    reader may name them in either order.
    """
    each = {name: F.cross_entropy(logits[name], goal[:, i], reduction="none") for i, name in enumerate(HEADS)}
    order = list(HEADS)
    color, second = goal[:, order.index("color")], goal[:, order.index("pattern_color")]
    striped = goal[:, order.index("pattern")] == PATTERNS.index("striped")
    told = each.pop("color") + each.pop("pattern_color")
    exchanged = F.cross_entropy(logits["color"], second.clamp_max(NONE - 1), reduction="none") + F.cross_entropy(
        logits["pattern_color"], color, reduction="none"
    )
    told = torch.where(striped, torch.minimum(told, exchanged), told)
    return torch.stack([told, *each.values()]).sum(0).mean()


def train_image_text(
    config: PretrainConfig,
    data: RenderSet,
    images: np.ndarray,
    finder: Finder,
    reader: Reader,
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    work: Path,
    device: str,
) -> ImageText:
    """Train two small towers, on the readers' answers and on the base's text encoder, by contrast (as CLIP)."""
    torch.manual_seed(config.seed + 13)
    model = ImageText(config.text_width).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    stage = Stage(work / "image-text", config.minutes["image-text"], {"model": model, "adamw": optimizer})
    generator = torch.Generator().manual_seed(config.seed + stage.step)
    told = answers(finder, reader, images, device)
    per = config.captions
    states = text_states(encoder, tokenizer, [c for row in data.captions for c in row]).view(len(data), per, -1)
    for spent in stage:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * constant_then_cosine(spent, stage.step, 50, turn=0.4)
        pick = torch.randint(0, len(data), (256,), generator=generator)
        which = torch.randint(0, per, (256,), generator=generator)
        p, t = model.pictures(told[pick].to(device)), model.texts(states[pick, which].to(device))
        logits = p @ t.T * model.temperature.exp().clamp_max(50)
        goal = torch.arange(len(pick), device=device)
        loss = (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2
        update([optimizer], model, loss)
        stage.samples += len(pick)
        if stage.step % 200 == 0:
            stage.log(loss=loss.item(), right=(logits.argmax(1) == goal).float().mean().item())
    return _finish(model, stage)


def load_model(model: Model, folder: Path) -> Model:
    """`model` with the weights of a finished stage, frozen."""
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)


def _finish(model: Model, stage: Stage) -> Model:
    model.eval().requires_grad_(False)
    torch.save(model.state_dict(), stage.folder / "model.pt")
    return model
