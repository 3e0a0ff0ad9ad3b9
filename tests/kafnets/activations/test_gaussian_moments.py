import math

import pytest
import torch

from kafnets import activations as act


@pytest.mark.parametrize(
    ("layer", "growth"), [(act.ReLU(2), 1.21), (act.ELU(2), 1.04), (act.SiLU(2), 1.10)], ids=lambda v: repr(v)
)
def test_gradient_growth_of_the_usual_activations(layer, growth):
    found = layer.gaussian_moments().gradient_growth
    assert found.shape == (2,)
    assert found.tolist() == pytest.approx([growth, growth], abs=0.005)


def test_moments_of_relu_in_closed_form():
    found = act.ReLU(1).gaussian_moments(mean=0.0, std=2.0)
    assert found.mean.item() == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-7)
    assert found.variance.item() == pytest.approx(4 * (0.5 - 1 / (2 * math.pi)), rel=1e-7)
    assert found.squared_slope.item() == pytest.approx(0.5, rel=1e-7)


def test_moments_of_a_shifted_input():
    found = act.ReLU(1).gaussian_moments(mean=0.7, std=1.5)
    phi, density = (
        0.5 * (1 + math.erf(0.7 / 1.5 / math.sqrt(2))),
        math.exp(-0.5 * (0.7 / 1.5) ** 2) / math.sqrt(2 * math.pi),
    )
    assert found.mean.item() == pytest.approx(0.7 * phi + 1.5 * density, rel=1e-6)
    assert found.squared_slope.item() == pytest.approx(phi, abs=2e-4)


def test_moments_by_sampling():
    layer = act.Spline(3).double()
    with torch.no_grad():
        layer.control += 0.5 * torch.randn(layer.control.shape, generator=torch.Generator().manual_seed(1))
    z = (0.5 + 1.2 * torch.randn(400_000, 3, dtype=torch.float64)).requires_grad_()
    y = layer(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    found = layer.gaussian_moments(0.5, 1.2)
    torch.testing.assert_close(found.mean, y.mean(0).detach(), atol=0.01, rtol=0)
    torch.testing.assert_close(found.variance, y.var(0).detach(), atol=0, rtol=0.02)
    torch.testing.assert_close(found.squared_slope, slope.square().mean(0), atol=0, rtol=0.02)


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"std": -1.0}, {"mean": math.inf}, {"std": math.nan}])
def test_bad_moments_are_named(settings):
    with pytest.raises(ValueError, match="mean must be finite and std > 0"):
        act.ReLU(1).gaussian_moments(**settings)


def test_moments_leave_the_layer_alone():
    layer = act.Spline(2)
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        layer.gaussian_moments()
    assert not seen and layer.training
    assert layer.control.dtype == torch.float32 and layer.control.grad is None
