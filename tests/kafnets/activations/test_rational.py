import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import Rational
from kafnets.activations.rational import fit

# leaky ReLU of slope 0.01, the first coefficients of the authors' own code
PUBLISHED = (
    [3.35583603e-02, 5.05000375e-01, 1.65343934, 2.01001052, 9.31901999e-01, 1.52424124e-01],
    [3.30847488e-06, 3.98021568, 5.12471206e-07, 3.01830109e-01],
)


def formula(x, numerator, denominator):
    above = sum(a * x**k for k, a in enumerate(numerator))
    return above / (1 + sum(b * x**k for k, b in enumerate(denominator, 1)).abs())


def test_is_the_formula():
    layer = Rational(3).double()
    with torch.no_grad():
        layer.numerator += torch.randn(6)
        layer.denominator += torch.randn(4)
    x = 3 * torch.randn(200, 3, dtype=torch.float64)
    expected = formula(x, layer.numerator.detach(), layer.denominator.detach())
    torch.testing.assert_close(layer(x).detach(), expected)


def test_large_values_follow_the_line_in_float32():
    layer = Rational(1)
    slope = (layer.numerator[5] / layer.denominator[3].abs()).item()
    for x in (1e5, 1e12, 1e25):
        assert layer(torch.tensor([[x]])).item() == pytest.approx(slope * x, rel=1e-4)


def test_the_fit_is_about_as_good_as_the_published_coefficients():
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    ours, theirs = formula(x, *fit(F.leaky_relu, 3.0)), formula(x, *PUBLISHED)
    target = F.leaky_relu(x)
    assert (ours - target).square().mean() <= 1.1 * (theirs - target).square().mean()
    assert (ours - target).abs().max() < 0.045


@pytest.mark.parametrize(("target", "error"), [(torch.tanh, 2e-3), (F.silu, 5e-3), (F.relu, 0.045), (F.elu, 0.02)])
def test_starts_as_the_target(target, error):
    layer = Rational(2, init=target)
    x = torch.linspace(-3, 3, 500)[:, None].repeat(1, 2)
    assert (layer(x) - target(x)).abs().max() < error


def test_a_polynomial_is_found_exactly():
    numerator, denominator = fit(lambda x: 1 + 2 * x - 0.5 * x**3, 2.0)
    x = torch.linspace(-2, 2, 100, dtype=torch.float64)
    torch.testing.assert_close(formula(x, numerator, denominator), 1 + 2 * x - 0.5 * x**3, atol=1e-8, rtol=0)


def test_a_straight_line_stays_one_far_away():
    layer = Rational(1, init=lambda x: 1 - 2 * x)
    x = torch.tensor([[-1e30], [-1e10], [0.5], [1e10], [1e30]])
    torch.testing.assert_close(layer(x), 1 - 2 * x, rtol=1e-5, atol=1e-6)
    assert 2 <= layer.lipschitz() < 2.1


def test_the_initial_function_is_smooth():
    assert (Rational(1).denominator >= 0).all()
    assert Rational(1).denominator[[0, 2]].tolist() == [0, 0]
    assert Rational(1).curvature().isfinite().all()


def test_ten_parameters_per_layer():
    assert Rational(64).num_parameters == 10


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"boundary": 0.0}, ValueError, "boundary must be > 0 and finite, got 0.0; the default is 3"),
        ({"init": 3}, TypeError, "init must be a function"),
        ({"init": torch.sqrt}, ValueError, r"but sqrt does not on \[-3, 3\]"),
    ],
)
def test_bad_settings_are_named(settings, kind, message):
    with pytest.raises(kind, match=message):
        Rational(2, **settings)


def test_repr_names_the_settings():
    assert repr(Rational(4)) == "Rational(4, init=leaky_relu, boundary=3)"
