"""The settings of a training and what follows from them: presets, the method's config, what may be made public."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dreamtune.config import suggest
from dreamtune.errors import ConfigError
from dreamtune.training.presets import preset
from dreamtune.training.settings import TrainSettings
from dreamtune.words import holds

_PRIVATE = {
    *("images", "base", "start_from", "device", "strict"),
    *("checkpoint_every", "keep_checkpoints", "sample_every", "sample_prompts", "trackers"),
    *("score_every", "keep", "early_stop", "dino", "clip", "gradient_checkpointing", "track_tsd"),
}


class TrainConfig(TrainSettings):
    """Settings of one DreamBooth training.

    :meth:`with_presets` replaces the defaults that were not set with those of the base's family and of the method.
    """

    @property
    def lr_ratios(self) -> tuple[float, float]:
        """Learning rates of the text encoders' adapters and of the token's vectors, as multiples of lr."""
        alike = self.optimizer == "prodigy"  # it finds one step size for all
        text, vectors = (self.lr, self.lr) if alike else (self.lr / 2, 5e-4)
        return (self.text_encoder_lr or text) / self.lr, (self.pivotal_lr or vectors) / self.lr

    @property
    def trains_text(self) -> bool:
        """Whether prompts change their meaning, so that text encoders are needed while training."""
        return self.text_encoder or self.pivotal > 0

    def public(self) -> dict[str, Any]:
        """What may be made public of a training, as plain values: what shaped the adapter, nothing of this machine."""
        return self.model_dump(mode="json", exclude=_PRIVATE)

    def with_presets(self, family: str) -> TrainConfig:
        """Return a copy that leaves nothing open: what was not set has the preset of the base's `family` and of the
        method, and every option of the method is named.

        Raises ConfigError as :meth:`method_config` does.
        """
        given, row = self.model_fields_set, preset(family, self.method)
        chosen = {key: value for key, value in row.items() if key not in given}
        # A preset must never contradict what the user asked for.
        if "warmup_steps" in chosen:
            steps = chosen.get("steps", self.steps)
            chosen["warmup_steps"] = min(chosen["warmup_steps"], steps - 1)
        others = chosen.get("compose_with", self.compose_with) or ("{class}",)
        if any(holds(self.prompt(it), self.token) for it in others):
            chosen = {key: value for key, value in chosen.items() if not key.startswith("compose")}
        if not chosen.get("compose", self.compose):
            chosen.pop("compose_with", None)
        if "alpha" in chosen and self.rank is not None:  # the learning rate beside it is meant for its scale
            chosen["alpha"] *= self.rank / row["rank"]
        if "method_options" in row:  # here an entry is what may be set or not
            chosen["method_options"] = row["method_options"] | self.method_options
        if self.optimizer == "prodigy" and "lr" not in given:
            chosen["lr"] = 1.0  # a factor on the rate that it finds: no preset's rate fits
        config = self.changed(**chosen)
        options = config.method_config().to_dict()
        return config.changed(rank=options.pop("rank"), alpha=options.pop("alpha"), method_options=options)

    def method_config(self) -> Any:
        """The method's own config object (for example LoRAConfig).

        Raises ConfigError for an unknown method or an option which the method does not have.
        """
        from dreamtune.adapters.methods import METHODS

        if self.method not in METHODS:
            raise ConfigError(f"unknown method {self.method!r}{suggest(self.method, list(METHODS))}")
        config_class = METHODS[self.method].config_class
        known = [field.name for field in fields(config_class)]
        options: dict[str, Any] = dict(self.method_options)
        for key in options.keys() & {"rank", "alpha"}:
            raise ConfigError(f"method_options.{key}: set {key} at the top level instead")
        if self.rank is not None:
            options["rank"] = self.rank
        if self.alpha is not None:
            options["alpha"] = self.alpha
        for key in options:
            if key not in known:
                raise ConfigError(f"the method {self.method!r} has no option {key!r}{suggest(key, known)}")
        try:
            return config_class(**options)
        except TypeError as error:
            raise ConfigError(f"options of the method {self.method!r}: {error}") from None
