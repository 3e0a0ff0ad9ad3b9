import math

import pytest
import torch
import torch.nn.functional as F

from kafnets import functional
from kafnets.activations import (
    KAF,
    Gaussian,
    Kernel,
    Laplacian,
    Matern32,
    Matern52,
    Periodic,
    RationalQuadratic,
    Ridge,
    TriangularKernel,
)

EVERY = [
    Gaussian(),
    Laplacian(),
    Matern32(),
    Matern52(),
    RationalQuadratic(),
    RationalQuadratic(0.3),
    Periodic(),
    TriangularKernel(),
]


@pytest.fixture(params=EVERY, ids=repr)
def kernel(request):
    return request.param


def book(kernel, t, length):
    """The formulas of Rasmussen and Williams 2006, chapter 4, in plain Python."""
    r = abs(t) / length
    if isinstance(kernel, Gaussian):
        return math.exp(-(r**2) / 2)
    if isinstance(kernel, Laplacian):
        return math.exp(-r)
    if isinstance(kernel, Matern32):
        return (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r)
    if isinstance(kernel, Matern52):
        return (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r)
    if isinstance(kernel, RationalQuadratic):
        return (1 + r**2 / (2 * kernel.mixture)) ** -kernel.mixture
    if isinstance(kernel, Periodic):
        ell = 2 * math.pi / kernel.period * length  # the book's l is an angle
        return math.exp(-2 * math.sin(math.pi * t / kernel.period) ** 2 / ell**2)
    return max(0.0, 1 - r)


@pytest.mark.parametrize("bandwidth", [0.2, 1.67])
def test_matches_the_formulas_of_the_book(kernel, bandwidth):
    t = torch.linspace(-7, 7, 113, dtype=torch.float64)
    expected = [book(kernel, v, 1 / math.sqrt(2 * bandwidth)) for v in t.tolist()]
    torch.testing.assert_close(kernel(t, torch.tensor(bandwidth)), torch.tensor(expected).double())


def derivatives(kernel, t, bandwidth, order):
    t = t.clone().requires_grad_()
    value = kernel(t, torch.tensor(bandwidth, dtype=torch.float64))
    for _ in range(order):
        (value,) = torch.autograd.grad(value.sum() + 0 * t.sum(), t, create_graph=True, materialize_grads=True)
    return value.detach()


@pytest.mark.parametrize("bandwidth", [0.2, 3.0])
def test_the_shape_bounds_the_derivatives(kernel, bandwidth):
    shape = kernel.shape(bandwidth)
    t = torch.linspace(1e-7, 12, 40_001, dtype=torch.float64)
    for order, bound in ((3, shape.third), (4, shape.fourth)):
        found = derivatives(kernel, t, bandwidth, order).abs().max().item()
        assert found <= bound * (1 + 1e-9)
        assert found >= 0.6 * bound - 1e-12
    if shape.falling < math.inf:
        beyond = t[t >= shape.falling]
        for order in (1, 2):
            found = derivatives(kernel, beyond, bandwidth, order).abs()
            assert (found.diff() <= 1e-9).all()


@pytest.mark.parametrize("bandwidth", [0.2, 3.0])
def test_is_smooth_except_at_the_breaks(kernel, bandwidth):
    shape = kernel.shape(bandwidth)
    for place in {0.0, *shape.breaks, 0.7}:
        left, right = (
            derivatives(kernel, torch.tensor([place + side], dtype=torch.float64), bandwidth, 1)
            for side in (-1e-9, 1e-9)
        )
        jumps = (left - right).abs().item() > 1e-6
        assert jumps == (shape.kinks and place in shape.breaks)


def test_falls_to_zero_or_is_periodic(kernel):
    far = kernel(torch.tensor([1e9]), torch.tensor(1.0)).item()
    if kernel.period == math.inf:
        assert far < 1e-5
    else:
        t = torch.linspace(-1, 1, 50, dtype=torch.float64)
        torch.testing.assert_close(kernel(t + kernel.period, torch.tensor(1.0)), kernel(t, torch.tensor(1.0)))


@pytest.mark.filterwarnings("ignore:Ridge")
@pytest.mark.parametrize("target", [F.elu, F.silu], ids=["elu", "silu"])
@pytest.mark.parametrize(
    "kernel",
    [Gaussian(), Laplacian(), Matern32(), Matern52(), RationalQuadratic(), TriangularKernel()],
    ids=repr,
)
def test_the_default_bandwidth_fits_smooth_targets(kernel, target):
    layer = KAF(1, kernel=kernel, init=Ridge(target))
    assert layer.fit.max_error < 0.015
    assert layer.alpha.abs().max() < 45


@pytest.mark.parametrize("free", [False, True])
def test_a_kaf_with_this_kernel_is_the_formula(kernel, free):
    layer = KAF(3, kernel=kernel, num_dict=9, free=free)
    x = 3 * torch.randn(5, 3, 6, 6)
    expected = functional.kaf(x, layer.alpha, layer.dictionary, layer.bandwidth, kernel)
    torch.testing.assert_close(layer(x), expected, atol=2e-6, rtol=1e-5)
    layer(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_triangular_interpolates_its_coefficients_linearly():
    layer = KAF(1, kernel=TriangularKernel(), num_dict=5, boundary=2.0)
    torch.testing.assert_close(layer(torch.arange(-2.0, 3.0)[:, None]), layer.alpha.T)
    half = layer(torch.tensor([[0.5]]))
    torch.testing.assert_close(half, layer.alpha[:, 2:4].mean().reshape(1, 1))


def test_a_custom_kernel():
    class Cauchy(Kernel):
        def __call__(self, t, bandwidth):
            return 1 / (1 + bandwidth * t**2)

    torch.manual_seed(0)
    mine = KAF(2, kernel=Cauchy())
    torch.manual_seed(0)
    ours = KAF(2, kernel=RationalQuadratic(), bandwidth=mine.bandwidth.item())
    x = torch.randn(7, 2)
    torch.testing.assert_close(mine(x), ours(x))
    assert mine.label == "KAF_Cauchy"
    with pytest.raises(NotImplementedError, match=r"Cauchy does not bound its derivatives.*define shape\(bandwidth\)"):
        mine.lipschitz()


@pytest.mark.parametrize("wrong", [Matern32, "Matern32", torch.exp])
def test_what_is_no_kernel_is_refused(wrong):
    with pytest.raises(TypeError, match=r"kernel must be a Kernel such as Matern32\(\), got"):
        KAF(2, kernel=wrong)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(("kind", "word"), [(Periodic, "period"), (RationalQuadratic, "mixture")])
def test_bad_settings_are_named(kind, word, value):
    with pytest.raises(ValueError, match=f"{word} must be > 0 and finite, got"):
        kind(value)


def test_labels_are_distinct():
    assert len({kernel.label for kernel in EVERY}) == len(EVERY)
