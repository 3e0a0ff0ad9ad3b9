import math

import pytest
import torch

from kafnets.activations import SReLU


def formula(x, low, left, high, right):
    """The paper's equation, for one number."""
    if x >= high:
        return high + right * (x - high)
    if x <= low:
        return low + left * (x - low)
    return x


def test_is_the_formula_of_each_channel():
    layer = SReLU(2, left_threshold=-0.5, left_slope=0.3, right_threshold=0.75, right_slope=-2.0)
    with torch.no_grad():
        layer.left_threshold[1], layer.right_slope[1] = -1.0, 0.5
    x = 2 * torch.randn(50, 2)
    first = [formula(v, -0.5, 0.3, 0.75, -2.0) for v in x[:, 0].tolist()]
    second = [formula(v, -1.0, 0.3, 0.75, 0.5) for v in x[:, 1].tolist()]
    torch.testing.assert_close(layer(x).detach(), torch.tensor([first, second]).T)


def test_gradients_are_those_of_the_paper():
    layer = SReLU(1, left_threshold=-1.0, left_slope=0.2, right_threshold=1.0, right_slope=0.5)
    layer(torch.tensor([[-3.0], [0.3], [2.5]])).sum().backward()
    assert layer.left_threshold.grad.item() == pytest.approx(1 - 0.2)
    assert layer.left_slope.grad.item() == pytest.approx(-3 + 1)
    assert layer.right_threshold.grad.item() == pytest.approx(1 - 0.5)
    assert layer.right_slope.grad.item() == pytest.approx(2.5 - 1)


def test_starts_as_a_leaky_relu():
    x = torch.randn(20, 3)
    torch.testing.assert_close(SReLU(3)(x), torch.nn.functional.leaky_relu(x, 0.2))


def test_crossed_thresholds_leave_no_jump():
    layer = SReLU(1)
    with torch.no_grad():
        layer.left_threshold.fill_(1.0)
        layer.right_threshold.fill_(-1.0)
    y = layer(torch.linspace(-3, 3, 6001)[:, None])
    assert y.diff(dim=0).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"left_threshold": 2.0}, "left_threshold must be < right_threshold, got 2.0 and 1.0"),
        ({"left_slope": math.nan}, "left_slope must be finite, got nan; the default is 0.2"),
        ({"right_threshold": math.inf}, "right_threshold must be finite"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SReLU(2, **settings)
