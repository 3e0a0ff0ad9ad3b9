import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from kafnets import functional
from kafnets.activations import KAF, Gaussian, Matern32, MultiKAF, Normal, PReLU, Ridge

POINTS, GAMMA = torch.linspace(-3, 3, 20), torch.tensor(1.67)
QUIET = "ignore:Ridge"


def bump(x):
    return x * torch.exp(-(x**2))


def test_the_fit_reports_its_errors():
    fit = Ridge(F.elu).fit(POINTS, GAMMA, Gaussian())
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    kernel = torch.exp(-GAMMA.double() * (x[:, None] - POINTS.double()) ** 2)
    error = kernel @ fit.alpha.double() - F.elu(x)
    assert fit.max_error == pytest.approx(error.abs().max().item(), rel=1e-3)
    assert fit.rms_error == pytest.approx(error.square().mean().sqrt().item(), rel=1e-3)
    assert fit.outside == pytest.approx((math.exp(-6) - 1, 6.0))
    assert torch.equal(fit.alpha, functional.ridge(POINTS, GAMMA, F.elu(POINTS)))


@pytest.mark.filterwarnings(QUIET)
def test_repr_shows_the_fit():
    assert "init=Ridge(elu, eps=1e-06), fit=RidgeFit(max_error=0.013, rms_error=0.0024)" in repr(
        KAF(4, init=Ridge(F.elu))
    )
    assert "fit=RidgeFit" in repr(MultiKAF(4, init=Ridge(F.elu)))
    assert "fit" not in repr(KAF(4))


@pytest.mark.filterwarnings(QUIET)
def test_the_fit_uses_the_kernel_of_the_layer():
    for layer in (KAF(2, kernel=Matern32(), init=Ridge(bump)), MultiKAF(2, init=Ridge(bump))):
        x = torch.linspace(-3, 3, 200)[:, None].repeat(1, 2)
        assert (layer(x) - bump(x)).abs().max() < 0.02
        assert layer.fit.max_error < 0.02


def test_the_fit_says_how_large_the_target_is_outside_and_nothing_is_printed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = KAF(2, init=Ridge(F.elu))
    left, right = layer.fit.outside
    assert abs(left + 0.998) < 1e-3 and right == 6


@pytest.mark.parametrize(
    "target", [torch.log, torch.sum, lambda x: x[:-1], lambda x: 1.0], ids=["log", "sum", "shorter", "float"]
)
def test_targets_without_finite_elementwise_values_are_refused(target):
    with pytest.raises(ValueError, match=r"target must map a tensor elementwise to finite values, but .* on \[-3, 3\]"):
        KAF(2, init=Ridge(target))


@pytest.mark.filterwarnings(QUIET)
def test_a_module_with_parameters_is_a_target_too():
    layer = KAF(2, init=Ridge(torch.nn.PReLU()))
    assert not layer.alpha.grad_fn and layer.label == "KAF_PReLU"
    with pytest.raises(ValueError, match=r"takes \(N, C\)"):
        KAF(2, init=Ridge(PReLU(2)))


def test_normal_zero_is_zero():
    assert not KAF(3, init=Normal(std=0.0)).alpha.any()
