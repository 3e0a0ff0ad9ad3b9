"""Checks that a default device elsewhere, as torch.set_default_device("cuda") makes it, does not matter."""

import pytest
import torch

from kafnets import ops


@pytest.fixture(autouse=True)
def elsewhere(layer, x):  # after both are built
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_forward_and_backward(layer, x, engine):
    x.requires_grad_()
    with ops.force(engine):
        try:
            ops.engine_for(x.device)
        except ValueError as reason:
            pytest.skip(str(reason))
        y = layer(x)
        grads = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(t.device.type == "cpu" and t.isfinite().all() for t in (y, *grads))


def test_analysis_is_on_the_cpu(layer):
    if layer.pointwise:
        curve, moments = layer.plot(), layer.gaussian_moments()
        assert curve.slopes.isfinite().all() and moments.mean.isfinite().all()
        try:
            found = [layer.lipschitz(), layer.curvature()]
        except NotImplementedError:
            return
        assert all(t.device.type == "cpu" and not t.isnan().any() for t in found)


def test_state_dicts_are_loaded(layer):
    state = {name: value.clone() for name, value in layer.state_dict().items() if isinstance(value, torch.Tensor)}
    layer.load_state_dict(state)
    assert all(value.device.type == "cpu" for value in state.values())
