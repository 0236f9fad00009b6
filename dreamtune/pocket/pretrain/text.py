"""Stage 2, the text encoder: learn to read captions before any picture is drawn from them.

Trained from scratch inside the UNet's training it learns too slowly (41 % of classes after 52,000 pictures; see
docs/log.md). Here every position after the text's end must know all that the caption says.
"""

# diffusers and transformers annotate arguments more narrowly than they accept.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..world import CLASSES, COLORS, CONTEXTS
from ..world.captions import IDENTIFIERS
from .config import PretrainConfig
from .schedule import Stage, constant_then_cosine

_COLORS, _PLACES = list(COLORS), list(CONTEXTS.values())
_PATTERNS = {"striped": 0, "stripes": 0, "spotted": 1, "spots": 1}
_SIDES, _SIZES = ("left", "right"), ("small", "big")
SLOT_SIZES = {
    "class": len(CLASSES) + 1,
    "color": len(_COLORS) + 1,
    "pattern": 3,
    "pattern_color": len(_COLORS) + 1,
    "hat": len(_COLORS) + 2,
    "side": 3,
    "size": 3,
    "identifier": len(IDENTIFIERS) + 1,
}
"""What is said of each of the two subjects; the last value of each means "nothing said" (a hat may lack a colour).

Which nonsense word was said means nothing, but must be known, as a CLIP knows it: an encoder that may forget it tells
"a sks cat" from "a cat" by 15 % of its states' length, and an adapter trained on the one then changes the other.
"""


def read_caption(text: str) -> tuple[list[list[int]], int]:
    """What a caption of the world says: a row of SLOT_SIZES labels per subject in order of mention, and the context."""
    words = text.split()
    none = [n - 1 for n in SLOT_SIZES.values()]
    slots: list[list[int]] = []
    waiting = list(none)  # adjectives of the next class word
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        color = _COLORS.index(before) if before in COLORS else len(_COLORS)
        current = slots[-1] if slots else waiting
        if word in CLASSES:
            waiting[0], waiting[1] = CLASSES.index(word), color
            slots.append(waiting)
            waiting = list(none)
        elif word in ("striped", "spotted"):
            waiting[2] = _PATTERNS[word]
        elif word in _PATTERNS:
            current[2], current[3] = _PATTERNS[word], color
        elif word == "hat":
            current[4] = color
        elif word in _SIDES and before == "the":
            current[5] = _SIDES.index(word)
        elif word in _SIZES:
            waiting[6] = _SIZES.index(word)
        elif word in IDENTIFIERS:
            waiting[7] = IDENTIFIERS.index(word)
    slots += [list(none)] * (2 - len(slots))
    place = next((i for i, p in enumerate(_PLACES) if text.endswith(p)), len(_PLACES))
    return slots[:2], place


def new_text_encoder(config: PretrainConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=config.text_width * 3,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            max_position_embeddings=config.max_tokens,
            projection_dim=config.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(n, max_tokens) token ids, padded as diffusers' pipelines pad."""
    out = tokenizer(
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return out["input_ids"]


class _Heads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.slots = nn.ModuleList(
            [nn.ModuleList([nn.Linear(width, n) for n in SLOT_SIZES.values()]) for _ in range(2)]
        )
        self.place = nn.Linear(width, len(_PLACES) + 1)

    def losses(self, h: Tensor, slots: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of cross-entropies, and the share of right answers over all questions."""
        loss, right = F.cross_entropy(self.place(h), place), [(self.place(h).argmax(-1) == place).float()]
        for i, heads in enumerate(self.slots):
            assert isinstance(heads, nn.ModuleList)
            for j, head in enumerate(heads):
                logits = head(h)
                loss = loss + F.cross_entropy(logits, slots[:, i, j])
                right.append((logits.argmax(-1) == slots[:, i, j]).float())
        return loss, torch.stack(right).mean()


def train_text_encoder(
    config: PretrainConfig, tokenizer: CLIPTokenizer, captions: list[str], work: Path, device: str
) -> CLIPTextModel:
    """Train for the stage's minutes to answer, at a random position after the text, what the caption says."""
    torch.manual_seed(config.seed)
    folder = work / "text"
    encoder, heads = new_text_encoder(config, tokenizer).to(device), _Heads(config.text_width).to(device)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=1e-3, weight_decay=0.01)
    stage = Stage(folder, config.minutes["text"], {"encoder": encoder, "heads": heads, "adamw": optimizer})
    ids = tokenize(tokenizer, captions)
    answers = [read_caption(c) for c in captions]
    slots, places = torch.tensor([a[0] for a in answers]), torch.tensor([a[1] for a in answers])
    held = 1000  # the last captions are for checking
    last = tokenizer.model_max_length - 1
    batch = 64
    generator = torch.Generator().manual_seed(config.seed + stage.step)

    def question(pick: Tensor) -> tuple[Tensor, Tensor]:
        batch_ids = ids[pick]
        hidden = encoder(batch_ids.to(device)).last_hidden_state
        length = batch_ids.ne(tokenizer.eos_token_id).sum(1)
        where = length + (torch.rand(len(pick), generator=generator) * (last + 1 - length)).long()
        return heads.losses(
            hidden[torch.arange(len(pick)), where.clamp_max(last)], slots[pick].to(device), places[pick].to(device)
        )

    for spent in stage:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * constant_then_cosine(spent, stage.step, 50, turn=0.6)
        loss, right = question(torch.randint(0, len(ids) - held, (batch,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        stage.samples += batch
        if stage.step % 200 == 0:
            stage.log(loss=loss.item(), answers=right.item())
    with torch.no_grad():
        _, right = question(torch.arange(len(ids) - held, len(ids)))
    stage.log(held_out_answers=right.item())
    encoder.eval()
    encoder.save_pretrained(folder / "model")
    return encoder
