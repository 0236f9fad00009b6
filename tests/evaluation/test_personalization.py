"""The point of it all: an adapter carries a subject over. Trains for minutes."""

from pathlib import Path
from random import Random

import pytest

from dreamtune.adapters import AdapterFile
from dreamtune.evaluation import measure_personalization
from dreamtune.models import load_base
from dreamtune.pipelines.train import train
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import random_subject
from dreamtune.training.config import TrainConfig
from tests.house.tree import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_preset_teaches_the_sample_cat_and_spares_other_cats(tmp_path: Path) -> None:
    images = ROOT / "examples" / "subjects" / "cat"
    result = train(TrainConfig(images=images, class_word="cat"), tmp_path / "run")
    base = load_base("pocket")
    with AdapterFile.load(result.adapter).attach(base.unet, strength=0.5) as attached:
        subject = random_subject(Random("subject 39"), "cat")
        measured = measure_personalization(base, attached, Evaluators.load(), subject)
        assert attached.strength == 0.5  # as it was
    assert measured.subject.share > 0.4
    assert measured.leak < 0.3
    assert measured.context_after >= measured.context_before - 0.1
    assert measured.figures.prompt >= 0.9
