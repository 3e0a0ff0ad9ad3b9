import math

import numpy as np
import pytest
import torch

from kafnets import activations as act
from kafnets.activations import reports
from kafnets.activations.reports import PiecewiseLinear, Turning

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
    """A fraction whose denominator falls back to 1 far out, in a needle."""
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


def needles(layer):
    """Both sides of the roots of a fraction's inner sum, other than 0: its slope can be largest there, in a needle."""
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
    grid = torch.cat([-far.flip(0), even + 1e-7, far, ends, needles(layer)])
    x = grid[(grid >= low) & (grid <= high)][:, None].repeat(1, layer.num_channels)
    width, truth = 1e-3, torch.zeros(layer.num_channels, dtype=torch.float64)
    for _ in range(4):
        # one-sided at the ends, whose own derivative may be that of the piece outside
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
    assert (found >= truth * (1 - 1e-12)).all()  # exact bounds against a derivative that autograd rounds
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
def test_random_slopes_between_two_points_stay_below(name):
    layer = {**SMOOTH, **BENT}[name]().double()
    x = torch.cat([3 * torch.randn(4000, 3), 100 * torch.randn(4000, 3)]).double()
    y = x + 10.0 ** torch.empty(x.shape).uniform_(-3, 1)
    with torch.no_grad():
        chords = (layer(y) - layer(x)).abs() / (y - x)
    assert (chords.amax(0) <= layer.lipschitz() * (1 + 1e-9) + 1e-8).all()


def test_parameters_that_are_not_numbers_are_not_hidden():
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
    layer = spread(act.Spline(3), 0.5).double()
    z = (0.5 + 1.2 * torch.randn(400_000, 3, dtype=torch.float64)).requires_grad_()
    y = layer(z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    found = layer.gaussian_moments(0.5, 1.2)
    torch.testing.assert_close(found.mean, y.mean(0).detach(), atol=0.01, rtol=0)
    torch.testing.assert_close(found.variance, y.var(0).detach(), atol=0, rtol=0.02)
    torch.testing.assert_close(found.squared_slope, slope.square().mean(0), atol=0, rtol=0.02)


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"std": -1.0}, {"mean": INF}, {"std": math.nan}])
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


def test_plot_is_the_function_and_its_slope():
    found = act.ELU(2).plot((-1.0, 1.0), points=5)
    assert found.x.tolist() == [-1, -0.5, 0, 0.5, 1]
    torch.testing.assert_close(found.values[1], torch.nn.functional.elu(found.x))
    torch.testing.assert_close(found.slopes[0], torch.where(found.x > 0, 1.0, found.x.exp()))
    with pytest.raises(ValueError, match="points must be an integer >= 2, got 1"):
        act.ELU(2).plot(points=1)
    with pytest.raises(ValueError, match="interval must be finite"):
        act.ELU(2).plot((-INF, 1.0))


def test_a_curve_in_several_pieces_is_whole(monkeypatch):
    whole = act.SiLU(3).plot()
    monkeypatch.setattr(reports, "CHUNK", 100)
    again = act.SiLU(3).plot()
    assert torch.equal(whole.values, again.values) and torch.equal(whole.slopes, again.slopes)


def test_num_parameters():
    assert act.ReLU(5).num_parameters == 0
    assert act.SReLU(5).num_parameters == 20
    assert act.Rational(5).num_parameters == 10
    assert act.KAF(5).num_parameters == 100
    layer = act.PReLU(5)
    layer.weight.requires_grad_(False)
    assert layer.num_parameters == 0


@pytest.mark.parametrize("layer", [act.KWTA(2), act.Maxout(4), act.Maxout(4, groups=2)], ids=repr)
def test_layers_of_many_values_have_no_curve(layer):
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


def test_an_own_activation_needs_only_forward():
    layer = Cube(2)
    assert layer.plot((0.0, 2.0), points=3).slopes[0].tolist() == [0, 3, 12]
    assert layer.gaussian_moments().squared_slope.tolist() == pytest.approx([27, 27], rel=1e-6)
    for report in (layer.lipschitz, layer.curvature):
        with pytest.raises(NotImplementedError, match=r"Cube does not bound its derivatives; define bounds\(\)"):
            report()


def test_an_own_activation_with_bounds():
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
def test_one_parameter_that_is_not_a_number_bounds_nothing(layer):
    for parameter in layer.parameters():
        saved = parameter.detach().clone()
        torch.nn.init.constant_(parameter, math.nan)
        assert layer.lipschitz().tolist() == layer.curvature().tolist() == [math.inf]
        parameter.data.copy_(saved)
