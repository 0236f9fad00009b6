"""A UNet whose prediction is made of several passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn

Run = Callable[..., Tensor]
"""One pass on what the UNet was called with: its prediction (n, c, h, w). Keywords replace arguments."""


@contextmanager
def in_passes(unet: nn.Module, predict: Callable[[Run, Tensor, dict[str, Any]], Tensor]) -> Iterator[None]:
    """Within the block `unet`, of the design of diffusers' UNet2DConditionModel, predicts what `predict` makes.

    predict: gets a pass, the latents (n, c, h, w) and the UNet's named arguments. As guidance is linear in the
    predictions with and without the prompt, means and blends of predictions are those of guided predictions.
    """
    outer, before = cast(Any, unet), unet.forward

    def forward(sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **given: Any) -> Any:
        kind: type[Any] = tuple

        def run(**changes: Any) -> Tensor:
            nonlocal kind
            output = before(sample, timestep, encoder_hidden_states, **{**given, **changes})
            kind = type(output)
            return output[0]

        prediction = predict(run, sample, given)
        return (prediction,) if kind is tuple else kind(sample=prediction)

    own = "forward" in vars(unet)
    outer.forward = forward
    try:
        yield
    finally:
        if own:
            outer.forward = before
        else:
            del outer.forward
