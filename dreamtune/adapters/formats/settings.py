"""The scale of a layer's change in files of other tools: alpha over rank, wherever they keep the alpha."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dreamtune.errors import AdapterFileError
from dreamtune.storage import read_regular

from ..parts import PARTS
from ..patterns import Matcher

DIFFUSERS_KEY = "lora_adapter_metadata"
"""Key in the metadata of diffusers' files; its JSON holds PEFT's options with a part's name before each."""
_KINDS = ("LORA", "LOHA", "LOKR")
_CHANGE_THE_BASE = ("pissa", "corda", "olora", "lora_ga", "loftq")
"""Values of `init_lora_weights` by which PEFT takes the first factors off the base's weights, as they begin."""
_ACT_OTHERWISE = (
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config"),
    *("alora_invocation_tokens", "layer_replication"),
)
"""Options of PEFT's LoRA with which its factors mean something else."""
_LONGEST = 2**24
"""Bytes of adapter_config.json."""

_LONGEST = 16 << 20
"""Bytes of an adapter_config.json, which may name every layer."""


@dataclass(frozen=True)
class PeftSettings:
    """What PEFT's configurations say about the scale, per part of the base; nothing if there are none."""

    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _matcher: Matcher = field(default_factory=lambda: Matcher("PEFT's options"), compare=False, repr=False)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Out of a diffusers file's own metadata. Raises AdapterFileError if they are not what diffusers writes."""
        text = metadata.get(DIFFUSERS_KEY)
        options = {} if text is None else _object(text, DIFFUSERS_KEY)
        configs: dict[str, dict[str, Any]] = {}
        for key, value in options.items():
            part, _, name = key.partition(".")
            if part not in PARTS or not name:
                raise AdapterFileError(f"{DIFFUSERS_KEY} has an option {key!r} for an unknown part of Stable Diffusion")
            configs.setdefault(part, {})[name] = value
        for config in configs.values():
            _check_base(config, DIFFUSERS_KEY)
        return cls(configs)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Out of adapter_config.json. Raises AdapterFileError if it is missing, damaged or of another method."""
        path = folder / "adapter_config.json"
        try:
            config = _object(read_regular(path, _LONGEST).decode(), path.name)
        except (OSError, UnicodeDecodeError):
            raise AdapterFileError(f"{path} cannot be read: copy the whole folder that PEFT saved") from None
        if config.get("peft_type") not in _KINDS:
            raise AdapterFileError(
                f"{path} has the method {config.get('peft_type')}: only {', '.join(_KINDS)} can be read"
            )
        _check_base(config, str(path))
        return cls(dict.fromkeys(PARTS, config))  # a folder is of one model, whichever

    def scaling(self, part: str, path: str, rank: int) -> tuple[float, bool] | None:
        """Alpha and whether it is over √rank for the layer `path`; None if nothing is said about its part.

        rank: of its factors. PEFT's alpha belongs to the rank of its configuration, which LoKr's full factors lack;
        the alpha returned belongs to `rank`. Raises AdapterFileError for options that are no numbers.
        """
        config = self.configs.get(part)
        if config is None:
            return None
        own_rank, alpha = (
            _pattern(self._matcher, config.get("rank_pattern"), path, config.get("r")),
            _pattern(self._matcher, config.get("alpha_pattern"), path, config.get("lora_alpha", config.get("alpha"))),
        )
        rslora = config.get("use_rslora", False)
        numbers = _number(own_rank), _number(alpha)
        if numbers[0] <= 0 or not numbers[1] or not isinstance(rslora, bool):
            raise AdapterFileError(
                f"r = {_shown(own_rank)}, alpha = {_shown(alpha)} of {path} are not valid: save it again"
            )
        return numbers[1] * (rank / numbers[0]) ** (0.5 if rslora else 1.0), rslora


def _number(value: Any) -> float:
    """The value as a float; 0 for what is no finite number, or too large for one."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0.0
    with contextlib.suppress(OverflowError):
        return float(value) if math.isfinite(value) else 0.0
    return 0.0


def _shown(value: Any) -> str:
    return f"{value!r:.40}"


def _check_base(config: Mapping[str, Any], where: str) -> None:
    for name in _ACT_OTHERWISE:
        if config.get(name):
            raise AdapterFileError(f"{where} sets {name}, a variant of LoRA that is not supported: train it without")
    begin = str(config.get("init_lora_weights")).lower()
    if begin.startswith(_CHANGE_THE_BASE):
        raise AdapterFileError(
            f"{where} sets init_lora_weights = {begin}: the factors belong to a base that PEFT has modified; save "
            "them again with path_initial_model_for_weight_conversion"
        )


def _pattern(matcher: Matcher, patterns: Any, path: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that is the end of the path decides. Raises ConfigError for an impossible one."""
    if not isinstance(patterns, Mapping):
        return default
    return next((value for key, value in patterns.items() if matcher.ends(str(key), path)), default)


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AdapterFileError(f"{name} is not a JSON object: copy the file again")
    return value
