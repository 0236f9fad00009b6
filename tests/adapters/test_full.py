"""Full fine-tuning as a method: a step of plain SGD is that of the weight itself."""

import torch

from dreamtune.adapters import attach
from tests.adapters.nets import TARGETS, config_of, frozen_net, inputs


def test_a_step_is_that_of_training_the_weights() -> None:
    net, twin = frozen_net(), frozen_net()
    attached = attach(net, config_of("full"), TARGETS).double()
    net(inputs()).square().mean().backward()
    weights = {path: twin.get_submodule(path).weight.requires_grad_() for path, _, _ in attached.layers()}
    twin(inputs()).square().mean().backward()
    with torch.no_grad():
        for path, _, adapter in attached.layers():
            change = adapter.get_parameter("change")
            change -= 0.1 * change.grad  # pyright: ignore[reportOperatorIssue]
            weights[path] -= 0.1 * weights[path].grad  # pyright: ignore[reportOperatorIssue]
    assert torch.allclose(net(inputs()), twin(inputs()), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net(inputs()), frozen_net()(inputs()))
