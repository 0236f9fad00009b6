import torch

from dreamtune.analysis import predictions


def test_predictions_are_means_over_layers_in_the_order_of_steps() -> None:
    true = {"a": torch.arange(16), "b": torch.arange(16)}
    steps = {
        20: {"a": torch.arange(8), "b": torch.arange(8)},
        10: {"a": torch.arange(8), "b": torch.arange(100, 108), "c": torch.arange(8)},
    }
    early, late = predictions(steps, true)
    assert (early.step, early.recall, early.accuracy) == (10, 0.5, 0.5)
    assert (late.step, late.recall, late.accuracy) == (20, 1, 1)
    assert predictions({1: {"c": torch.arange(8)}}, true)[0].recall is None
