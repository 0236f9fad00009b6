"""Which adapters and regions act on a base during generation, and at which steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dreamtune.adapters import AttachedAdapter
from dreamtune.generation.blend import Blending, blended
from dreamtune.generation.composite import composite, turn
from dreamtune.generation.regions import Routing, routed
from dreamtune.models import Base
from dreamtune.pipelines.adapter_ref import AdapterRef
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.generate.regions import Placed, RegionUse, place_regions


class Stage:
    """Adapters and regions on a base; call :meth:`on_step` at every step."""

    def __init__(
        self,
        adapters: Sequence[tuple[AdapterRef, AttachedAdapter]],
        placed: Sequence[Placed],
        routing: Routing | Blending | None,
        turns: bool,
    ) -> None:
        """Use :func:`staged`. turns: whether the adapters take turns."""
        self._adapters, self._placed, self._routing, self._turns = adapters, placed, routing, turns
        self._acting = tuple(True for region in placed for _ in region.use.uses)

    def on_step(self, step: int, steps: int) -> None:
        """Switch on what acts at `step` (0, 1, ...) of `steps`, and the rest off."""
        now = turn(step, len(self._adapters)) if self._turns else None
        changed = False
        for index, (use, attached) in enumerate(self._adapters):
            strength = use.strength if use.acts(step, steps) and now in (None, index) else 0.0
            if attached.strength != strength:
                attached.strength, changed = strength, True
        acting = tuple(use.acts(step, steps) for region in self._placed for use in region.use.uses)
        if self._routing is not None and acting != self._acting:
            self._routing.change([region.deltas(step, steps) for region in self._placed])
            self._acting = acting
        elif self._routing is not None and changed:
            self._routing.forget()


@contextmanager
def staged(
    config: GenerateConfig,
    adapters: Sequence[AdapterRef],
    regions: Sequence[RegionUse],
    base: Base,
    *,
    guided: bool,
) -> Iterator[Stage]:
    """Put adapters and regions on `base` for the length of the block, to act together as config.mode says.

    guided: whether there is guidance. Raises IncompatibleModelError for what does not fit, and
    ConfigError for adapters that no region can have.
    """
    with ExitStack() as stack:
        masks = [region.mask(config.softness) for region in regions]
        placed = place_regions(regions, masks, base, any_base=config.any_base, prompt_weights=config.prompt_weights)
        alone = config.mode in ("switch", "composite")  # strengths change at every step, or pass
        on = [stack.enter_context(use.on(base, config.any_base, merge=not alone)) for use in adapters]
        # text encoders and words are not switched: the prompt is read once, for the whole picture
        unets = [(use, it.parts["unet"]) for use, it in zip(adapters, on, strict=True) if "unet" in it.parts]
        routing = None
        if placed:
            act = blended if config.mode == "blend" else routed
            routing = stack.enter_context(act(base.unet, [it.region for it in placed], guided=guided))
        if config.mode == "composite":
            stack.enter_context(composite(base.unet, [attached for _, attached in unets]))
        yield Stage(unets, placed, routing, turns=config.mode == "switch")
