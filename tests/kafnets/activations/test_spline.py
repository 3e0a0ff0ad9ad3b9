import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import Spline
from kafnets.activations.spline import interpolating_control


def basis(t):
    """The uniform cubic B-spline, by its textbook pieces."""
    t = t.abs()
    inner = 2 / 3 - t**2 + t**3 / 2
    return torch.where(t < 1, inner, torch.where(t < 2, (2 - t) ** 3 / 6, 0.0))


def moved(layer):
    with torch.no_grad():
        layer.control += 0.5 * torch.randn(layer.control.shape, generator=torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize("num_knots", [2, 3, 20])
def test_is_the_sum_of_b_splines(num_knots):
    layer = moved(Spline(3, num_knots=num_knots, boundary=2.0)).double()
    q = layer.control.detach()
    whole = torch.cat([2 * q[:, :1] - q[:, 1:2], q, 2 * q[:, -1:] - q[:, -2:-1]], 1)
    knots = -2 + layer.step * torch.arange(-1, num_knots + 1, dtype=torch.float64)
    x = torch.empty(200, 3, dtype=torch.float64).uniform_(-2, 2)
    expected = (whole * basis((x[..., None] - knots) / layer.step)).sum(-1)
    torch.testing.assert_close(layer(x).detach(), expected)


def test_two_continuous_derivatives_everywhere():
    layer = moved(Spline(1, num_knots=8)).double()
    knots = torch.linspace(-3, 3, 8, dtype=torch.float64)
    x = torch.stack([knots - 1e-9, knots + 1e-9]).reshape(-1, 1).requires_grad_()
    y = layer(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    for values in (y, first, second):
        left, right = values.detach().view(2, 8)
        torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


def test_is_linear_outside_the_knots():
    layer = moved(Spline(2)).double()
    x = torch.tensor([[3.0, -3.0], [4.0, -4.0], [7.0, -7.0]], dtype=torch.float64)
    y = layer(x).detach()
    torch.testing.assert_close((y[2] - y[1]) / 3, y[1] - y[0])


@pytest.mark.parametrize(("target", "error"), [(F.silu, 2e-3), (torch.tanh, 2e-3), (F.relu, 0.07)])
def test_starts_as_the_target(target, error):
    layer = Spline(2, init=target)
    x = torch.linspace(-3, 3, 500)[:, None].repeat(1, 2)
    assert (layer(x) - target(x)).abs().max() < error


def test_goes_through_the_values_at_the_knots():
    values = torch.randn(9, dtype=torch.float64)
    layer = Spline(1, num_knots=9).double()
    with torch.no_grad():
        layer.control.copy_(interpolating_control(values))
    knots = torch.linspace(-3, 3, 9, dtype=torch.float64)
    torch.testing.assert_close(layer(knots[:, None])[:, 0], values)


def test_a_value_depends_on_four_control_points():
    layer = Spline(1)
    layer(torch.tensor([[0.1]])).sum().backward()
    assert layer.control.grad.nonzero()[:, 1].tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"num_knots": 1}, ValueError, "num_knots must be an integer >= 2, got 1; the default is 20"),
        ({"boundary": 0.0}, ValueError, "boundary must be > 0 and finite, got 0.0; the default is 3"),
        ({"init": "relu"}, TypeError, "init must be a function"),
        ({"init": torch.log}, ValueError, r"init must map .* to finite values, but log does not on \[-3, 3\]"),
        ({"init": torch.sum}, ValueError, "init must map a tensor elementwise"),
    ],
)
def test_bad_settings_are_named(settings, kind, message):
    with pytest.raises(kind, match=message):
        Spline(2, **settings)


def test_repr_names_the_settings():
    assert repr(Spline(4, init=F.elu)) == "Spline(4, num_knots=20, boundary=3, init=elu)"
