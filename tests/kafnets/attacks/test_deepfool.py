"""DeepFool: one step on a linear network, its settings."""

import pytest
import torch

from kafnets.attacks import L2, Linf
from kafnets.attacks.deepfool import DeepFool

W = torch.tensor([0.6, -0.8])
X, Y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])


def net(x):
    return torch.stack([(x - 0.5) @ W + 0.05, 0 * x[:, 0]], 1)


@pytest.mark.parametrize(
    ("norm", "direction", "distance"),
    [(L2(), -W, 0.05), (Linf(), -W.sign(), 0.05 / 1.4)],
)
@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
def test_one_step_beyond_the_plane(norm, direction, distance, overshoot):
    found = DeepFool(norm=norm, overshoot=overshoot, steps=1).nearest(net, X, Y)
    torch.testing.assert_close(found.images, X + (1 + overshoot) * (distance + 1e-4) * direction)


def test_more_steps_on_a_curved_network():
    def curved(x):
        return torch.stack([(4 * (x[:, 0] - 0.2)).exp() - 1.5, 0 * x[:, 0]], 1)

    assert DeepFool(steps=1).nearest(curved, X, Y).sizes.isinf().all()
    # the boundary lies at 0.2 + log(1.5) / 4
    assert DeepFool().nearest(curved, X, Y).sizes.item() == pytest.approx(0.3 - 0.1014, abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"classes": 0}, "classes must be >= 1, got 0"),
        ({"overshoot": -0.1}, "overshoot must be >= 0 and finite, got -0.1; the default is 0.02"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(**settings)


def test_names():
    assert str(DeepFool(steps=20)) == "DeepFool-20 Linf eps 8/255"
