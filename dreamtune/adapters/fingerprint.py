"""Checks whether a layer has the weight that an adapter was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamtune.errors import IncompatibleModelError


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a weight rounded to the two half precisions: a base loaded in one of them is the same base.

    Rounding twice is not rounding once, so that float16 weights and bfloat16 weights of one base do not match each
    other, while either matches the float32 weights.
    """

    float16: str
    bfloat16: str

    @classmethod
    def of(cls, weight: Tensor) -> Fingerprint:
        """The fingerprint of a weight of any shape, precision and device."""
        return cls(digest_of(weight, torch.float16), digest_of(weight, torch.bfloat16))

    def matches(self, weight: Tensor) -> bool:
        """Whether `weight` is the same up to the rounding of one half precision."""
        return self.float16 == digest_of(weight, torch.float16) or self.bfloat16 == digest_of(weight, torch.bfloat16)


def digest_of(weight: Tensor, dtype: torch.dtype) -> str:
    """Hash (16 hex digits) of a weight's shape and of its values rounded to `dtype`.

    Raises IncompatibleModelError for one on the meta device, where offloading leaves it between passes.
    """
    if weight.is_meta:
        raise IncompatibleModelError("the base's weights are offloaded: remove the offloading first")
    rounded = weight.detach().to("cpu", dtype).contiguous().view(torch.uint8)
    digest = hashlib.sha256(f"{tuple(weight.shape)};".encode())
    digest.update(rounded.numpy().data)
    return digest.hexdigest()[:16]  # 64 bits: this tells accidents apart, it is no defence against forgery
