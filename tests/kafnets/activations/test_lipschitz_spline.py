import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import LipschitzSpline


def interpolated(x, knots, values):
    """A linear spline through (knots, values), continued linearly beyond both ends, for one channel."""
    k = (torch.searchsorted(knots, x.contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    slope = (values[k + 1] - values[k]) / (knots[k + 1] - knots[k])
    return values[k] + slope * (x - knots[k])


def perturbed(layer, size, seed=0):
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in layer.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return layer


def test_is_the_projected_spline():
    layer = perturbed(LipschitzSpline(2, num_knots=7, scaled=False), 1.0).double()
    knots = torch.linspace(-3, 3, 7, dtype=torch.float64)
    x = 3 * torch.randn(100, 2, dtype=torch.float64)
    for c in range(2):
        raw = layer.values[c].detach()
        climbed = torch.cat([torch.zeros(1), raw.diff().clamp(-1, 1).cumsum(0)])  # the knots are 1 apart
        projected = climbed - climbed.mean() + raw.mean()
        torch.testing.assert_close(layer(x)[:, c].detach(), interpolated(x[:, c], knots, projected))


def test_scaling_stretches_the_grid_and_keeps_the_slopes():
    plain, scaled = LipschitzSpline(1, scaled=False), LipschitzSpline(1)
    torch.nn.init.constant_(scaled.log_scale, 0.7)
    factor = torch.tensor(0.7).exp()
    x = torch.randn(50, 1)
    torch.testing.assert_close(scaled(x), plain(x * factor) / factor)


def test_a_feasible_start_is_not_changed_by_the_projection():
    x = torch.linspace(-5, 5, 101)[:, None]
    torch.testing.assert_close(LipschitzSpline(1)(x), F.relu(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(LipschitzSpline(1, init=torch.abs)(x), x.abs(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0, 1e4])
def test_never_more_than_1_lipschitz(size, scaled):
    for seed in range(5):
        layer = LipschitzSpline(4, scaled=scaled)
        perturbed(layer, size, seed)
        if scaled:
            layer.log_scale.data.clamp_(-5, 5)  # beyond these, rounding errors dominate
        assert (layer.lipschitz() <= 1).all()
        layer.double()
        x = 5 * torch.randn(2000, 4, dtype=torch.float64)
        y = x + torch.randn(2000, 4, dtype=torch.float64)
        with torch.no_grad():
            assert ((layer(x) - layer(y)).abs() <= (x - y).abs() * (1 + 1e-9) + 1e-9).all()


def test_training_reaches_a_steep_target_as_far_as_slope_one_allows():
    layer = LipschitzSpline(1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    x = torch.linspace(-3, 3, 200)[:, None]
    for _ in range(200):
        optimizer.zero_grad()
        (layer(x) - x.abs()).square().mean().backward()
        optimizer.step()
    assert (layer(x) - x.abs()).abs().max() < 0.1


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"num_knots": 1}, ValueError, "num_knots must be an integer >= 2, got 1; the default is 21"),
        ({"boundary": -1.0}, ValueError, "boundary must be > 0 and finite, got -1.0"),
        ({"init": None}, TypeError, "init must be a function"),
    ],
)
def test_bad_settings_are_named(settings, kind, message):
    with pytest.raises(kind, match=message):
        LipschitzSpline(2, **settings)


def test_parameters_and_repr():
    assert LipschitzSpline(3).num_parameters == 3 * 22
    assert LipschitzSpline(3, scaled=False).num_parameters == 3 * 21
    assert repr(LipschitzSpline(3)) == "LipschitzSpline(3, num_knots=21, boundary=3, init=relu, scaled=True)"
