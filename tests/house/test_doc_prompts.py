"""The prompts that the documentation suggests can be set, and name the subject at different places."""

import re

import yaml

from dreamtune.training.config import TrainConfig
from tests.house.tree import ROOT


def test_suggested_prompts_put_the_token_at_different_places() -> None:
    (text,) = re.findall(
        r"```yaml\n(prompts:.*?)```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.DOTALL
    )
    config = TrainConfig(images=ROOT, class_word="dog", **yaml.safe_load(text))
    places = {prompt.split().index("sks") for prompt in config.instance_prompts}
    assert min(places) == 0 and len(places) >= 4
