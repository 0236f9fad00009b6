"""The settings as text: a list for the terminal, tables for the documentation, recipes to start from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dreamtune.training.config import TrainConfig
from dreamtune.training.equivalents import EQUIVALENTS
from dreamtune.training.habits import HABITS
from dreamtune.training.presets import PRESETS

FAMILIES = {
    "pocket": "the embedded base",
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}
"""Families of bases that have presets, in words."""

IN_RECIPES = (
    *("method", "rank", "alpha", "method_options", "targets", "instance_prompt", "class_prompt"),
    *(
        "steps",
        "optimizer",
        "lr",
        "lr_schedule",
        "warmup_steps",
        "batch_size",
        "gradient_accumulation_steps",
        "weight_decay",
    ),
    *("snr_gamma", "ema_decay", "precision", "buckets", "flip"),
    *("prior", "prior_from", "prior_weight", "prior_images", "sampling_steps", "guidance"),
)
"""Settings worth considering in a recipe; the others have the same default everywhere."""


@dataclass(frozen=True)
class Setting:
    """One key of a recipe."""

    name: str
    default: str
    """As it would stand in a recipe; "required" where there is none."""
    presets: dict[str, str]
    """Family of base -> its own default."""
    meaning: str


def settings() -> list[Setting]:
    """Every key of a training recipe, in the order of its definition."""
    return [
        Setting(
            name,
            "required" if field.is_required() else show(field.get_default(call_default_factory=True)),
            {family: show(row[name]) for family, row in PRESETS.items() if name in row},
            " ".join((field.description or "").split()),
        )
        for name, field in TrainConfig.model_fields.items()
    ]


def show(value: Any) -> str:
    """A value as YAML on one line, as people write it."""
    if value is None or (isinstance(value, tuple | list | dict) and not value):
        return "none"
    if isinstance(value, float) and value and not 1e-2 <= abs(value) < 1e4:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


def settings_table() -> str:
    """Every key with its default, presets and meaning, as a table in Markdown."""
    rows = [
        (
            f"`{s.name}`",
            "<br>".join([s.default, *(f"{family}: {value}" for family, value in s.presets.items())]),
            s.meaning,
        )
        for s in settings()
    ]
    return table(("setting", "default", "meaning"), rows)


def methods_table() -> str:
    """Learning rate, rank and scale of every method on every family of bases, in Markdown."""
    from dreamtune.adapters.methods import METHODS

    rows = []
    for method in METHODS:
        cells = {family: _method_cell(preset_config(family, method)) for family in FAMILIES}
        rows.append((f"`{method}`", *cells.values()))
    return table(("method", *FAMILIES.values()), rows)


def equivalents_table() -> str:
    """Our settings beside those of kohya's sd-scripts and of diffusers' script, in Markdown."""
    rows = [(_names((row.ours,)), _names(row.kohya), _names(row.diffusers), row.remark) for row in EQUIVALENTS]
    return table(("dreamtune", "sd-scripts", "diffusers", "remark"), rows)


def habits_table() -> str:
    """Settings of other trainers that do not exist here, and what to use instead, in Markdown."""
    return table(("sd-scripts or diffusers", "here"), [(_names(habit.names), habit.answer) for habit in HABITS])


def preset_config(family: str, method: str) -> TrainConfig:
    """The complete settings for a base and a method, all else left unset; images and class are placeholders."""
    return TrainConfig(images="pictures", class_word="class", method=method).with_presets(family)  # pyright: ignore[reportArgumentType]


def recipe(family: str, method: str) -> str:
    """A YAML recipe for a method on a family of bases, with the meaning of each key."""
    config = preset_config(family, method)
    place = "" if family == "pocket" else " --base MODEL"
    lines = [
        f"# {method} on {FAMILIES[family]}.",
        f"# dreamtune train IMAGES_DIR --class WORD{place} --config examples/recipes/{family}/{method}.yaml",
        "",
    ]
    for setting in settings():
        if setting.name in IN_RECIPES:
            value = getattr(config, setting.name)
            text = "null" if value is None else "{}" if value == {} else show(value)
            lines.append(f"{setting.name}: {text}  # {_short(setting.meaning)}")
    return "\n".join(lines) + "\n"


def _method_cell(config: TrainConfig) -> str:
    own = {name: value for name, value in config.method_options.items() if name in ("factor", "dash_lr_ratio")}
    parts = [f"lr {show(config.lr)}", f"rank {config.rank}", f"scale {config.method_config().scale:g}"]
    return ", ".join([*parts, *(f"{name} {value}" for name, value in own.items())])


def _short(meaning: str) -> str:
    """Its first clause, without what is in parentheses, and shorter still if that is long."""
    text = re.split(r"[;.]\s|\.$", re.sub(r"\s\([^)]*\)", "", meaning), maxsplit=1)[0]
    for mark in (", or ", ", ", ": "):
        if len(text) > 80:
            text = text.split(mark)[0]
    return text


def _names(names: tuple[str, ...]) -> str:
    return " ".join(f"`{name}`" for name in names)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---" for _ in head], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
