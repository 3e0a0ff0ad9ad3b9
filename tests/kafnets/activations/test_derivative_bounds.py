import math

import numpy as np
import pytest
import torch

from kafnets import activations as act
from kafnets.activations.derivative_bounds import PiecewiseLinear, Turning

INF = math.inf
INTERVALS = [(-INF, INF), (-2.0, 1.0), (0.3, 0.5), (-5.0, -2.0), (-INF, -0.1), (0.0, INF), (1.5, 40.0)]


def spread(layer, size):
    """The layer with its parameters moved by normal noise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return layer


def distant_root():
    """A fraction whose denominator returns to 1 far from 0, in a narrow spike."""
    layer = act.Rational(3)
    with torch.no_grad():
        layer.denominator.copy_(torch.tensor([0.5, 4.0, 0.5, 0.01]))
    return layer


SMOOTH = {
    "ELU": lambda: act.ELU(3),
    "GELU": lambda: act.GELU(3),
    "SiLU": lambda: act.SiLU(3),
    "Softplus": lambda: act.Softplus(3, beta=2.5),
    "PSoftplus": lambda: act.PSoftplus(3, alpha=3.0),
    "PSSiLU": lambda: act.PSSiLU(3, alpha=2.0, beta=0.3),
    "Spline": lambda: spread(act.Spline(3), 0.5),
    "Spline of 2 knots": lambda: spread(act.Spline(3, num_knots=2), 0.5),
    "Rational": lambda: act.Rational(3),
    "Rational to tanh": lambda: act.Rational(3, init=torch.tanh),
}
BENT = {
    "ReLU": lambda: act.ReLU(3),
    "LeakyReLU": lambda: act.LeakyReLU(3, negative_slope=-1.5),
    "PReLU": lambda: spread(act.PReLU(3), 1.0),
    "ELU of 2": lambda: act.ELU(3, alpha=2.0),
    "SReLU": lambda: spread(act.SReLU(3), 0.5),
    "SReLU crossed": lambda: spread(act.SReLU(3, right_threshold=0.1), 2.0),
    "APL": lambda: spread(act.APL(3), 0.5),
    "LipschitzSpline": lambda: spread(act.LipschitzSpline(3), 0.3),
    "Maxout": lambda: spread(act.Maxout(3, pieces=4, groups=3), 0.5),
    "Rational moved": lambda: spread(act.Rational(3), 0.3),
    "Rational far": lambda: spread(act.Rational(3), 3.0),
    "Rational with a distant root": distant_root,
}


def sizes(layer, x):
    """|f'| and |f''| of every channel at points (M, C), by autograd in float64."""
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    second = torch.zeros_like(x)
    if slope.requires_grad:
        (second,) = torch.autograd.grad(slope.sum(), x)
    return slope.detach().abs(), second.abs()


def spikes(layer):
    """Points on both sides of the non-zero roots of a denominator's sum, where the slope can have a narrow spike."""
    if not isinstance(layer, act.Rational):
        return torch.empty(0, dtype=torch.float64)
    roots = torch.from_numpy(np.roots([*layer.denominator.tolist()[::-1], 0.0]))
    real = roots.real[roots.imag.abs() < 1e-9] if roots.is_complex() else roots
    real = real[real != 0]
    return torch.cat([real * (1 - 1e-10), real * (1 + 1e-10)])


def suprema(layer, interval, order):
    """sup |f'| (order 0) or sup |f''| (order 1) inside an interval: a dense grid, and finer ones around its maxima."""
    layer.double()
    low, high = interval
    even = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    far = torch.logspace(0.7, 4, 500, dtype=torch.float64)
    ends = torch.tensor([low, high]).double().clamp(-1e4, 1e4)
    grid = torch.cat([-far.flip(0), even + 1e-7, far, ends, spikes(layer)])
    x = grid[(grid >= low) & (grid <= high)][:, None].repeat(1, layer.num_channels)
    width, truth = 1e-3, torch.zeros(layer.num_channels, dtype=torch.float64)
    for _ in range(4):
        # slightly inside, because at an end autograd may return the derivative of the piece outside
        x = torch.where(x <= low, low + 1e-12, torch.where(x >= high, high - 1e-12, x))
        found = sizes(layer, x)[order]
        truth = truth.maximum(found.amax(0))
        best = x.detach().gather(0, found.argmax(0, keepdim=True))
        x = best + width * torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
        width /= 500
    return truth


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("name", [*SMOOTH, *BENT])
def test_lipschitz_is_sound_and_tight(name, interval):
    layer = {**SMOOTH, **BENT}[name]()
    found = layer.lipschitz(interval)
    truth = suprema(layer, interval, 0)
    assert found.shape == (3,) and found.dtype == torch.float64 and not found.requires_grad
    assert (found >= truth * (1 - 1e-12)).all()  # the bounds are exact, the derivative of autograd is rounded
    assert (found <= 1.01 * truth + 1e-6).all()


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("name", SMOOTH)
def test_curvature_is_sound_and_tight(name, interval):
    layer = SMOOTH[name]()
    found = layer.curvature(interval)
    truth = suprema(layer, interval, 1)
    assert found.shape == (3,) and found.dtype == torch.float64 and not found.requires_grad
    assert (found >= truth).all()
    assert (found <= 1.02 * truth + 1e-6).all()


@pytest.mark.parametrize("name", BENT)
def test_curvature_is_infinite_where_the_slope_jumps(name):
    layer = BENT[name]()
    assert (layer.curvature() == INF).all()


@pytest.mark.parametrize(
    ("layer", "interval"),
    [
        (act.ReLU(2), (0.0, 3.0)),
        (act.ReLU(2), (-3.0, 0.0)),
        (act.PReLU(2, init=1.0), (-INF, INF)),
        (act.SReLU(2), (0.1, 50.0)),
        (act.LipschitzSpline(2, num_knots=11, boundary=2.5), (0.1, 5.0)),
        (act.Maxout(2, groups=2), (0.01, 5.0)),
    ],
    ids=repr,
)
def test_curvature_is_zero_on_a_straight_piece(layer, interval):
    assert layer.curvature(interval).tolist() == [0, 0]


def test_known_suprema():
    assert act.SiLU(1).lipschitz().item() == pytest.approx(1.09984, abs=1e-5)
    assert act.GELU(1).lipschitz().item() == pytest.approx(1.12890, abs=1e-5)
    assert act.SiLU(1).curvature().item() == pytest.approx(0.5, rel=1e-5)
    assert act.GELU(1).curvature().item() == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-5)
    assert act.Softplus(1, beta=8.0).curvature().item() == pytest.approx(2.0, rel=1e-5)
    assert act.ReLU(1).lipschitz().item() == 1


@pytest.mark.parametrize("name", ["SReLU", "APL", "Maxout", "Rational far", "Spline", "PReLU"])
def test_slopes_of_random_secants_stay_below_the_bound(name):
    layer = {**SMOOTH, **BENT}[name]().double()
    x = torch.cat([3 * torch.randn(4000, 3), 100 * torch.randn(4000, 3)]).double()
    y = x + 10.0 ** torch.empty(x.shape).uniform_(-3, 1)
    with torch.no_grad():
        chords = (layer(y) - layer(x)).abs() / (y - x)
    assert (chords.amax(0) <= layer.lipschitz() * (1 + 1e-9) + 1e-8).all()


def test_nan_parameters_have_no_finite_bound():
    for layer in (act.PReLU(1), act.APL(1), act.SReLU(1), act.Spline(1), act.LipschitzSpline(1), act.PSSiLU(1)):
        for parameter in layer.parameters():
            torch.nn.init.constant_(parameter, math.nan)
        assert not layer.lipschitz().isfinite().any()
    for layer in (act.Rational(1), act.Maxout(1)):
        for parameter in layer.parameters():
            torch.nn.init.constant_(parameter, math.nan)
        assert not layer.lipschitz().isfinite().any()


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0,), 3.0, ("a", "b"), None])
@pytest.mark.parametrize("report", ["lipschitz", "curvature", "plot"])
def test_bad_intervals_are_named(report, interval):
    with pytest.raises(ValueError, match="interval must be two numbers"):
        getattr(act.SiLU(1), report)(interval)


@pytest.mark.parametrize("layer", [act.KWTA(2), act.Maxout(4), act.Maxout(4, groups=2)], ids=repr)
def test_layers_that_are_not_pointwise_have_no_curve(layer):
    for report in (layer.curvature, layer.gaussian_moments, layer.plot):
        with pytest.raises(TypeError, match=r"is for activations of one value, but each output of"):
            report()


def test_kwta_jumps():
    assert act.KWTA(3).lipschitz().tolist() == [INF] * 3
    with pytest.raises(ValueError, match="interval"):
        act.KWTA(3).lipschitz((1.0, 0.0))
    with pytest.raises(TypeError):
        act.Maxout(4).lipschitz()


class Cube(act.Activation):
    def forward(self, x):
        return self.check(x) ** 3


def test_a_custom_activation_needs_only_forward():
    layer = Cube(2)
    assert layer.plot((0.0, 2.0), points=3).slopes[0].tolist() == [0, 3, 12]
    assert layer.gaussian_moments().squared_slope.tolist() == pytest.approx([27, 27], rel=1e-6)
    for report in (layer.lipschitz, layer.curvature):
        with pytest.raises(NotImplementedError, match=r"Cube does not bound its derivatives; define bounds\(\)"):
            report()


def test_a_custom_activation_with_bounds():
    class Tanh(act.Activation):
        def forward(self, x):
            return self.check(x).tanh()

        def bounds(self):
            turn = math.atanh(1 / math.sqrt(3))
            return Turning(
                first=lambda x: 1 - x.tanh() ** 2,
                second=lambda x: -2 * x.tanh() * (1 - x.tanh() ** 2),
                first_turns=torch.zeros(2, 1),
                second_turns=torch.tensor([[-turn, turn]]).expand(2, 2),
            )

    assert Tanh(2).lipschitz().tolist() == pytest.approx([1, 1], rel=1e-5)
    assert Tanh(2).curvature((-INF, INF))[0].item() == pytest.approx(4 / (3 * math.sqrt(3)), rel=1e-5)
    assert Tanh(2).lipschitz((1.0, 2.0))[0].item() == pytest.approx(1 - math.tanh(1) ** 2, rel=1e-5)


def test_piecewise_linear_pieces_that_only_touch_do_not_count():
    steps = PiecewiseLinear(torch.tensor([[0.0, 1.0]]), torch.tensor([[9.0, 2.0, -5.0]]))
    assert steps.slope(0.0, 1.0).tolist() == [2]
    assert steps.slope(-0.1, 1.0).tolist() == [9]
    assert steps.slope(0.5, INF).tolist() == [5]


@pytest.mark.parametrize(
    "layer", [act.SReLU(1), act.LipschitzSpline(1), act.PSoftplus(1), act.PSSiLU(1), act.Rational(1)]
)
def test_one_nan_parameter_makes_the_bounds_infinite(layer):
    for parameter in layer.parameters():
        saved = parameter.detach().clone()
        torch.nn.init.constant_(parameter, math.nan)
        assert layer.lipschitz().tolist() == layer.curvature().tolist() == [math.inf]
        parameter.data.copy_(saved)
