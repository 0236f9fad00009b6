"""The generation metadata of an image, and the settings that reproduce it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Self

from PIL import Image
from torch import Tensor

from dreamtune.data.images import MAX_BYTES, to_tensor
from dreamtune.data.named import named_picture, squared
from dreamtune.errors import AdapterFileError, ConfigError
from dreamtune.models import Base
from dreamtune.pipelines.adapter_names import text_of
from dreamtune.pipelines.adapter_ref import AdapterRef, base_in_run, digest_of, is_name
from dreamtune.pipelines.generate.config import GenerateConfig
from dreamtune.pipelines.generate.image_spec import ImageSpec
from dreamtune.pipelines.generate.provenance import provenance
from dreamtune.pipelines.generate.regions import RegionUse
from dreamtune.storage import open_regular, read_regular
from dreamtune.text import shown
from dreamtune.words import forms

_PRECISIONS = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


@dataclass(frozen=True)
class Start:
    """The init image."""

    path: Path
    image: Image.Image
    digest: str
    """SHA-256 of the file."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ConfigError for a file that is not an image."""
        picture = named_picture(path)
        return cls(path, picture.image, picture.digest)

    def remarks(self, size: int) -> list[str]:
        """What the user should know about it."""
        width, height = self.image.size
        if width == height:
            return []
        return [f"{self.path.name} is {width}x{height}: it is center-cropped and resized to {size}x{size}"]

    def latents(self, base: Base, size: int) -> Tensor:
        """Scaled latents (1, c, h, w) of its middle, `size` pixels wide and high."""
        return base.encode_images(to_tensor(squared(self.image, size))[None])


def record(
    config: GenerateConfig,
    spec: ImageSpec,
    base: Base,
    size: int,
    adapters: Sequence[AdapterRef],
    regions: Sequence[RegionUse],
    start: Start | None,
) -> dict[str, str]:
    """Text chunks for the image of `spec`; from them :func:`again` restores everything but the files."""
    sampling = spec.sampling
    own = type(base.scheduler).__name__.removesuffix("Scheduler")
    settings: dict[str, Any] = {
        "prompt": spec.prompt,
        "negative_prompt": config.negative_prompt,
        "seed": spec.seed,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "size": size,
        "sampler": own if sampling.scheduler == "auto" else sampling.scheduler,
        "scheduler": sampling.scheduler,
        "base": base.id,
        "precision": _PRECISIONS[str(base.unet.dtype)],
        "adapters": [adapter.to_dict() for adapter in adapters],
    }
    if any(adapter.zero_terminal_snr for adapter in adapters):
        settings["zero_terminal_snr"] = bool(base.scheduler.config.get("rescale_betas_zero_snr"))
    if config.mode != "routed":
        settings["mode"] = config.mode
    if config.mode == "collage":
        settings["denoise"] = sampling.denoise
    if regions:
        settings |= {"regions": [region.to_dict() for region in regions], "softness": config.softness}
    if spec.layout is not None:  # the regions are what makes the picture again
        settings["layout"] = {"way": "auto", "prompt": spec.layout.asked}
    if start:
        settings |= {"init": {"file": start.path.name, "sha256": start.digest}, "denoise": sampling.denoise}
    if config.prompt_weights:
        settings["prompt_weights"] = True
    if config.any_base:
        settings["any_base"] = True
    return provenance(settings)


def again(picture: Path, **changes: Any) -> GenerateConfig:
    """The settings that `picture` was generated with, with `changes`.

    Adapters, masks and the init image are searched for by name in the working directory, next to the image, and up to
    two folders deep in both, and verified by their hashes. Raises ConfigError for an image without generation metadata,
    and for a file that is missing or has changed since; files in `changes` are not searched for.
    """
    told = _told(picture)
    places = [Path(), picture.parent, picture.parent.parent]
    used: list[Path] = []
    try:
        values: dict[str, Any] = {"prompts": [told["prompt"]], "n": 1, "base": told["base"]}
        values |= {name: told[name] for name in _SAME if name in told}
        if "adapters" not in changes:
            values["adapters"] = [_adapter(it, picture, places, used) for it in told["adapters"]]
        if "regions" not in changes:
            values["regions"] = [_region(it, picture, places, used) for it in told.get("regions", [])]
        if "init" in told and "init" not in changes:
            values["init"] = _found(told["init"], "the init image", "--init", picture, places, _hash)
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(f"the generation metadata of {picture} is damaged: use another copy of the image") from None
    from_picture = "base" not in changes
    name = changes.get("base", told["base"])
    if from_picture and name != "pocket" and not is_name(name):
        raise ConfigError(f"{picture} records the invalid base name {shown(name)}: use --base")
    if name not in ("pocket", "auto") and "/" not in name and not Path(name).exists():
        known = next(filter(None, (base_in_run(path, name) for path in used)), None)
        if known is None:
            raise ConfigError(
                f"{picture} was generated with the base {name!r}, a local folder or file that is not here: set base to "
                "its path"
            )
        changes["base"] = known
    return GenerateConfig.from_mapping({**values, **changes}, str(picture)).with_told_base(from_picture)


_SAME = (
    *("negative_prompt", "seed", "steps", "guidance", "size", "scheduler", "precision"),
    *("mode", "softness", "denoise", "prompt_weights", "any_base"),
)
"""Names that are the same in metadata and settings."""


def _told(picture: Path) -> dict[str, Any]:
    try:
        with open_regular(picture) as file, Image.open(file) as opened:
            opened.load()  # text may stand behind the pixels
            text = opened.info.get("dreamtune")
    except (OSError, SyntaxError, ValueError):
        raise ConfigError(f"cannot read the image {picture}: check that it exists and is a PNG") from None
    try:
        told = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        told = None
    if isinstance(told, dict) and "grid" in told:
        raise ConfigError(f"{picture} is the sheet of a grid: use one of its images ({', '.join(told['pictures'])})")
    if not isinstance(told, dict):
        raise ConfigError(
            f"{picture} has no generation metadata: use a PNG as `dreamtune generate` wrote it (editing or sending an "
            "image can remove its metadata)"
        )
    return told


def _adapter(told: Mapping[str, Any], picture: Path, places: Sequence[Path], used: list[Path]) -> str:
    path = _found(told, "the adapter", "--adapter or --region", picture, places, digest_of)
    used.append(path)
    return text_of(path, told)


def _region(told: Mapping[str, Any], picture: Path, places: Sequence[Path], used: list[Path]) -> str:
    files = "+".join(_adapter(it, picture, places, used) for it in told["adapters"])
    if "mask" in told:
        place = str(_found(told["mask"], "the mask", "--region", picture, places, _hash))
    else:
        place = ",".join(map(repr, told["box"]))
    return f"{files}@{place}={told['prompt']}"


def _found(told: Mapping[str, Any], what: str, option: str, picture: Path, places: Sequence[Path], digest: Any) -> Path:
    """The file with the recorded name and hash. Raises ConfigError if there is none, or only different ones."""
    name, wanted, others = Path(told["file"]).name, told["sha256"], dict[Path, str]()
    for path in _named(name, places):
        try:
            others[path] = digest(path)
        except (OSError, AdapterFileError):
            continue
        if others[path] == wanted:
            return path
    if not others:
        raise ConfigError(
            f"{what} {name} of {picture} was not found (SHA-256 {wanted[:12]}…): run in a folder that has it, or set "
            f"it with {option}"
        )
    path, found = next(iter(others.items()))
    raise ConfigError(
        f"{what} {path} has changed since {picture} was generated (SHA-256 {found[:12]}… instead of {wanted[:12]}…): "
        f"set it with {option} to use it anyway"
    )


def _named(name: str, places: Sequence[Path]) -> Iterator[Path]:
    for place in dict.fromkeys(places):
        for pattern in ("", "*/", "*/*/"):
            for form in forms(name):
                yield from sorted(place.glob(pattern + escape(form)))


def _hash(path: Path) -> str:
    return hashlib.sha256(read_regular(path, MAX_BYTES)).hexdigest()
