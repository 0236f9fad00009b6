"""The point of it all: an adapter carries a subject over. Trains for minutes."""

from pathlib import Path
from random import Random

import pytest

from dreamtune.adapters import AdapterFile
from dreamtune.evaluation import measure_personalization
from dreamtune.models import load_base
from dreamtune.pipelines.train import train
from dreamtune.pocket import photographs
from dreamtune.pocket.evaluators import Evaluators
from dreamtune.pocket.world import random_subject
from dreamtune.training.config import TrainConfig


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("number", "cls"), [(8100, "robot"), (8101, "cat")])
def test_the_preset_teaches_a_subject_and_spares_its_class(tmp_path: Path, number: int, cls: str) -> None:
    subject = random_subject(Random(f"subject {number}"), cls)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i, photo in enumerate(photographs(subject, 5, seed=number)):
        photo.save(folder / f"{i}.png")
    result = train(TrainConfig(images=folder, class_word=cls), tmp_path / "run")
    base = load_base("pocket")
    with AdapterFile.load(result.adapter).attach(base.unet) as attached:
        measured = measure_personalization(base, attached, Evaluators.load(), subject)
        assert attached.strength == 1.0
    assert measured.subject.share > 0.25
    assert measured.context_after >= measured.context_before - 0.101
    assert measured.leak < measured.subject.share / 2
