"""What every stage shares: time-boxed resumable loops, Muon with AdamW, EMA, and a log of curves."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of Muon's quintic iteration X <- (A + B G + C G²) X with G = X Xᵀ."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices by the Newton-Schulz iteration of Muon (Jordan et al., 2024).

    matrices: (k, n, m) fp32; singular values of the results lie in about 0.7..1.2.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = _by_gram_matrices(x, steps) if x.shape[2] >= 6 * x.shape[1] else _directly(x, steps)
    return x if wide else x.mT


def _directly(x: Tensor, steps: int) -> Tensor:
    """In bf16, which is accurate enough and twice as fast: rounding of X is corrected by the next iteration."""
    x = x.bfloat16()
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.float()


def _by_gram_matrices(x: Tensor, steps: int) -> Tensor:
    """In fp32 on small squares: every iterate is a polynomial in G times X, so X itself is needed at the end only."""
    gram = x @ x.mT
    product: Tensor | None = None
    for i in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        factor.diagonal(dim1=1, dim2=2).add_(_A)
        product = factor if product is None else factor @ product
        if i < steps - 1:
            gram = factor @ gram @ factor
    return x if product is None else product @ x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates for weights of two or more dimensions (convolutions flattened).

    An update has RMS 0.2 like AdamW's, so that both share one learning rate (Liu et al., arXiv 2502.16982, eq. 4).
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            # Lists at once: on a GPU a small network's step is as long as its kernels are many.
            grads = [cast("Tensor", p.grad) for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            velocities = [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(velocities, grads, 1 - group["momentum"])
            updates = list(torch._foreach_lerp(grads, velocities, group["momentum"]))
            by_shape: dict[torch.Size, list[int]] = {}
            for i, p in enumerate(params):
                by_shape.setdefault(p.flatten(1).shape, []).append(i)
            for shape, places in by_shape.items():
                rows = orthogonalize(torch.stack([updates[i].flatten(1) for i in places]))
                for i, row in zip(places, rows.mul_(0.2 * math.sqrt(max(shape))), strict=True):
                    updates[i] = row.view_as(params[i])
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, updates, alpha=-group["lr"])


def optimizers(modules: dict[str, tuple[nn.Module, float]], lr: float) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices, AdamW for the rest (embeddings, norms, biases, first and last layers).

    modules: name -> (module, factor on the learning rate).
    """
    hidden: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for module, factor in modules.values():
        big, small = [], []
        for name, p in module.named_parameters():
            edge = any(part in name for part in ("conv_in", "conv_out", "embedding", "head"))
            (big if p.ndim >= 2 and not edge else small).append(p)
        hidden.append({"params": big, "factor": factor})
        rest.append({"params": small, "factor": factor})
    muon = Muon(hidden, lr=lr, weight_decay=0.01)
    adamw = torch.optim.AdamW(cast("Any", rest), lr=lr, betas=(0.9, 0.98), weight_decay=0.005)
    return [muon, adamw]


class Stage:
    """A time-boxed, resumable training stage with a checkpoint and a curve in its folder.

    The budget counts training time over all of its runs, so that a killed stage goes on where its last checkpoint was.
    """

    def __init__(self, folder: Path, minutes: float, state: dict[str, Any], every: float = 120.0) -> None:
        self.folder, self.budget, self.state, self.every = folder, minutes * 60, state, every
        folder.mkdir(parents=True, exist_ok=True)
        self.step, self.samples, self.seconds = 0, 0, 0.0
        self._checkpoint = folder / "checkpoint.pt"
        if self._checkpoint.exists():
            saved = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
            for name, item in state.items():
                item.load_state_dict(saved[name])
            self.step, self.samples, self.seconds = saved["step"], saved["samples"], saved["seconds"]

    def __iter__(self) -> Iterator[float]:
        """Yield the share of the budget that is spent, once a step, until it is all spent."""
        start, offset = time.monotonic(), self.seconds
        saved = start
        while self.seconds < self.budget:
            yield self.seconds / self.budget
            self.step += 1
            now = time.monotonic()
            self.seconds = offset + now - start
            if now - saved > self.every:
                self.save()
                saved = now
        self.save()

    def save(self) -> None:
        """Write the checkpoint: first under another name, then in place of the old one."""
        data = {name: item.state_dict() for name, item in self.state.items()}
        data |= {"step": self.step, "samples": self.samples, "seconds": self.seconds}
        partial = self._checkpoint.with_suffix(".tmp")
        torch.save(data, partial)
        os.replace(partial, self._checkpoint)

    def log(self, **values: float) -> None:
        """Append a line to curve.jsonl and print it."""
        row = {"step": self.step, "samples": self.samples, "seconds": round(self.seconds, 1)}
        row |= {k: round(float(v), 5) for k, v in values.items()}
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(self.folder.name, json.dumps(row), flush=True)


class Ema:
    """Exponential moving average of several modules' parameters, with the usual warm-up of the decay."""

    def __init__(self, modules: Iterable[nn.Module], decay: float) -> None:
        self.parameters = [p for m in modules for p in m.parameters()]
        self.shadow = [p.detach().clone() for p in self.parameters]
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.data for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange average and parameters; call it twice to return."""
        for p, s in zip(self.parameters, self.shadow, strict=True):
            kept = p.data.clone()
            p.data.copy_(s)
            s.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Average and count."""
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""
        self.updates = state["updates"]
        for s, saved in zip(self.shadow, state["shadow"], strict=True):
            s.copy_(saved)


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("factor", 1.0)


def constant_then_cosine(spent: float, step: int, warmup: int, turn: float = 0.5, floor: float = 0.03) -> float:
    """Learning-rate factor: linear warm-up, constant until `turn` of the budget, cosine to `floor`."""
    fall = 1.0 if spent < turn else floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (spent - turn) / (1 - turn)))
    return min(1.0, (step + 1) / warmup) * fall


def update(optimizers: Sequence[torch.optim.Optimizer], module: nn.Module, loss: Tensor) -> None:
    """One step of all optimizers down the gradient of `loss`, clipped to norm 1."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()  # now, not before the next step: a compiled step's gradients lie where its next ones will
