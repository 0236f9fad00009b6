"""Loading the evaluators and asking them about pictures."""

# transformers annotates arguments more narrowly than it accepts.
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamtune.errors import BaseModelError

from .. import WEIGHTS
from .. import path as base_path
from ..world import CLASSES, COLORS, CONTEXTS, PATTERNS
from .geometry import SECOND_SCORE, best, crop, in_strips
from .networks import HEADS, PICTURE, Finder, ImageText, Reader
from .reading import Found, Reading

_BATCH = 64
_COLORS, _CONTEXTS = list(COLORS), list(CONTEXTS)

Pictures = Sequence[Image.Image | np.ndarray] | np.ndarray
"""PIL pictures or arrays (h, w, 3) uint8 of any size, or one array (n, h, w, 3)."""


@dataclass(frozen=True)
class Evaluators:
    """The three networks with the base's text encoder, frozen."""

    finder: Finder
    reader: Reader
    image_text: ImageText
    encoder: CLIPTextModel
    tokenizer: CLIPTokenizer

    @classmethod
    def load(cls) -> Self:
        """The evaluators that are shipped with the embedded base. Raises BaseModelError when they are missing."""
        base, folder = base_path(), WEIGHTS / "evaluators"
        encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(base / "text_encoder", local_files_only=True))
        encoder.load_state_dict(_weights(base / "text_encoder" / "model.safetensors"))
        tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
        models = Finder(), Reader(), ImageText(encoder.config.hidden_size)
        for model, name in zip(models, ("finder", "reader", "image-text"), strict=True):
            model.load_state_dict(_weights(folder / f"{name}.safetensors"))
            model.eval().requires_grad_(False)
        return cls(*models, encoder.eval().requires_grad_(False), tokenizer)

    @torch.no_grad()
    def read(self, pictures: Pictures) -> list[Reading]:
        """What each picture shows."""
        readings: list[Reading] = []
        for x in _batches(pictures):
            scores, boxes, contexts = self._find(x)
            logits = {name: v.unflatten(0, (len(x), 2)) for name, v in self._look(x, boxes)[0].items()}
            told = {name: v.argmax(-1).tolist() for name, v in logits.items()}
            for i, (context, there) in enumerate(zip(contexts.argmax(1).tolist(), _there(scores, boxes), strict=True)):
                found = [_found({n: v[i][j] for n, v in told.items()}, boxes[i, j], float(scores[i, j])) for j in there]
                readings.append(Reading(_CONTEXTS[context], tuple(found)))
        return readings

    @torch.no_grad()
    def identity(self, pictures: Pictures) -> Tensor:
        """(n, 96) unit rows: who the most certainly found subject of each picture is. Cosines compare individuals."""
        rows = []
        for x in _batches(pictures):
            boxes = self._find(x)[1][:, :1]
            rows.append(self._look(x, boxes)[1])
        return torch.cat(rows)

    @torch.no_grad()
    def identities_in_strips(self, pictures: Pictures, count: int) -> list[Tensor]:
        """Of each picture (count, 96) unit rows: who is most certainly in each of `count` strips of one width.

        For pictures of three and more, of which the networks have seen none: :meth:`identities` finds two there.
        """
        rows: list[Tensor] = []
        for x in _batches(pictures):
            presence, boxes, _ = self.finder(x)
            places = in_strips(presence, boxes, count)
            rows += self._look(x, places)[1].unflatten(0, (len(x), count))
        return rows

    @torch.no_grad()
    def identities(self, pictures: Pictures) -> list[Tensor]:
        """Of each picture (1 or 2, 96) unit rows: who its subjects are, from left to right; those of :meth:`read`."""
        rows: list[Tensor] = []
        for x in _batches(pictures):
            scores, boxes, _ = self._find(x)
            who = self._look(x, boxes)[1].unflatten(0, (len(x), 2))
            rows += [who[i, there] for i, there in enumerate(_there(scores, boxes))]
        return rows

    @torch.no_grad()
    def likeness(self, pictures: Pictures, texts: Sequence[str]) -> Tensor:
        """(n,) cosine of each picture with its text, in the space of the image-text encoder."""
        seen = self.image_text.pictures(answers(self.finder, self.reader, to_array(pictures), "cpu"))
        return (seen * self.image_text.texts(text_states(self.encoder, self.tokenizer, texts))).sum(-1)

    def _find(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        presence, boxes, contexts = self.finder(x)
        return *best(presence, boxes), contexts

    def _look(self, x: Tensor, boxes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Reader's answers for boxes (n, k, 4), rows in the order picture 0 box 0, picture 0 box 1, ..."""
        return self.reader(crop(x.repeat_interleave(boxes.shape[1], 0), boxes.flatten(0, 1)))


def _there(scores: Tensor, boxes: Tensor) -> list[list[int]]:
    """Of each picture which of its boxes show a subject, from left to right; the first always does."""
    order = (boxes[..., 0] + boxes[..., 2]).argsort(dim=1, stable=True).tolist()
    there = (scores >= SECOND_SCORE).tolist()
    return [[i for i in row if i == 0 or sure[i]] for row, sure in zip(order, there, strict=True)]


def to_array(pictures: Pictures) -> np.ndarray:
    """(n, 48, 48, 3) uint8."""
    if isinstance(pictures, np.ndarray) and pictures.shape[1:3] == (PICTURE, PICTURE):
        return pictures
    images = [Image.fromarray(p) if isinstance(p, np.ndarray) else p.convert("RGB") for p in pictures]
    # BOX averages whole pixels when a picture is a multiple of the size, and copies them at the size itself.
    return np.stack([np.asarray(p.resize((PICTURE, PICTURE), Image.Resampling.BOX)) for p in images])


@torch.no_grad()
def answers(finder: Finder, reader: Reader, pictures: np.ndarray, device: str) -> Tensor:
    """(n, width) what ImageText knows of pictures (n, 48, 48, 3): context, and of two places score, box, attributes.

    Places are ordered from left to right; probabilities of a place are multiplied by its score.
    """
    rows = []
    for i in range(0, len(pictures), _BATCH):
        x = _to_tensor(pictures[i : i + _BATCH]).to(device)
        presence, boxes, contexts = finder(x)
        scores, boxes = best(presence, boxes)
        logits, _ = reader(crop(x.repeat_interleave(2, 0), boxes.flatten(0, 1)))
        told = torch.cat([F.softmax(logits[name], -1) for name in HEADS], -1).unflatten(0, (len(x), 2))
        places = torch.cat([scores[..., None], scores[..., None] * boxes, scores[..., None] * told], -1)
        order = (boxes[..., 0] + boxes[..., 2]).argsort(1)
        places = places.gather(1, order[..., None].expand_as(places))
        rows.append(torch.cat([F.softmax(contexts.float(), -1), places.flatten(1)], 1).cpu())
    return torch.cat(rows)


@torch.no_grad()
def text_states(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(n, width) hidden state of the base's text encoder at the end of each text."""
    rows = []
    device = encoder.device
    for i in range(0, len(texts), 256):
        batch = tokenizer(list(texts[i : i + 256]), padding="max_length", truncation=True, return_tensors="pt")
        ids = batch["input_ids"].to(device)
        end = ids.eq(tokenizer.eos_token_id).float().argmax(1)
        rows.append(encoder(ids).last_hidden_state[torch.arange(len(ids)), end].float().cpu())
    return torch.cat(rows)


def _batches(pictures: Pictures) -> list[Tensor]:
    array = to_array(pictures)
    return [_to_tensor(array[i : i + _BATCH]) for i in range(0, len(array), _BATCH)]


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _found(told: dict[str, int], box: Tensor, score: float) -> Found:
    pattern_color, hat = told["pattern_color"], told["hat"]
    x0, y0, x1, y1 = box.tolist()
    return Found(
        cls=CLASSES[told["cls"]],
        color=_COLORS[told["color"]],
        pattern=PATTERNS[told["pattern"]],
        pattern_color=_COLORS[pattern_color] if pattern_color < len(_COLORS) else None,
        hat=_COLORS[hat] if hat < len(_COLORS) else None,
        box=(x0, y0, x1, y1),
        score=score,
    )


def _weights(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BaseModelError(
            f"the evaluators of the embedded base are not installed ({file.name} is missing): reinstall dreamtune"
        )
    return {name: value.float() for name, value in load_file(file).items()}
