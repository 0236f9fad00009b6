"""Patterns on layer paths, from anyone: found as `re` finds them, and never for long."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dreamtune.adapters import select_targets
from dreamtune.adapters.formats import read_adapter
from dreamtune.adapters.patterns import LONGEST, Matcher
from dreamtune.adapters.targets import TARGETS, match_layers
from dreamtune.errors import AdapterFileError, ConfigError

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
ENDLESS = ["(a|aa)+[!?]", "(.|a)*(.|a)*(.|a)*(.|a)*(.|a)*[0-9]$", r"(\w|a)+(\w|aa)+(\w|aa)+[!?]$"]


@pytest.mark.parametrize(
    "pattern", [*TARGETS.values(), "attn1", r"^down_blocks\.[01]\.", "ff", r"to_out\.0$", "(?i)ATTN1"]
)
def test_patterns_are_found_as_python_finds_them(pattern: str) -> None:
    assert Matcher("targets").found(pattern, PATH) is bool(re.search(pattern, PATH))


@pytest.mark.parametrize("pattern", ["to_out.0", "attn1.to_out.0", "out.0", "attn2.to_out.0", "to_(out|q).[01]", PATH])
def test_ends_follow_the_rule_of_peft(pattern: str) -> None:
    assert Matcher("rank_pattern").ends(pattern, PATH) is bool(re.match(rf"(.*\.)?({pattern})$", PATH))


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_that_would_search_for_years_is_an_error_soon(pattern: str) -> None:
    begin = time.monotonic()
    matcher = Matcher("targets", seconds=0.2)
    with pytest.raises(ConfigError, match="targets: matching .* takes too long: write it without nested repeats"):
        for _ in range(100):
            matcher.found(pattern, "a" * 60)
    with pytest.raises(ConfigError, match="takes too long"):  # nothing is left for others
        matcher.found(ENDLESS[0], "a" * 60)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("pattern", ["(", "a" * (LONGEST + 1), "(" * 900, "[z-a]", "(a{1000}){1000}" * 9, "a{2}" * 200])
def test_what_is_no_pattern_is_one_short_line(pattern: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"^ranks: ") as caught:
        match_layers([PATH], {pattern: 4}, "ranks")
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert time.monotonic() - begin < 2


def test_targets_and_files_are_matched_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher.__init__, "__defaults__", (0.2,))
    with pytest.raises(ConfigError, match="targets: matching"):
        select_targets(nn.ModuleDict({"a" * 60: nn.Linear(2, 2)}), ENDLESS[0])
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    options = {"unet.r": 2, "unet.lora_alpha": 2, "unet.rank_pattern": {"(.|..)+[!?]": 4}}
    tensors = {f"{layer}.lora_A.weight": torch.zeros(2, 8), f"{layer}.lora_B.weight": torch.zeros(8, 2)}
    save_file(tensors, tmp_path / "slow.safetensors", {"lora_adapter_metadata": json.dumps(options)})
    with pytest.raises(AdapterFileError, match="slow.safetensors: PEFT's options: matching"):
        read_adapter(tmp_path / "slow.safetensors")
