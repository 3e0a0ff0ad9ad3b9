import math

import pytest
import torch
import torch.nn.functional as F

from kafnets.activations import (
    ELU,
    KAF,
    Gaussian,
    Identity,
    Laplacian,
    Matern32,
    Matern52,
    MultiKAF,
    Normal,
    Periodic,
    RationalQuadratic,
    ResidualKAF,
    Ridge,
    TriangularKernel,
)

pytestmark = pytest.mark.filterwarnings("ignore:Ridge")
SMOOTH = [Gaussian(), Matern32(), Matern52(), RationalQuadratic(), RationalQuadratic(0.1), Periodic()]
EVERY = [*SMOOTH, Laplacian(), TriangularKernel()]
EVERYWHERE = (-math.inf, math.inf)


def reached(layer, order, low=-12.0, high=12.0, count=8_001):
    """The largest size of a derivative on a dense grid and random points, by autograd through the layer."""
    x = torch.cat([torch.linspace(low, high, count), low + (high - low) * torch.rand(3000)]).double()
    x = x.unsqueeze(1).repeat(1, layer.num_channels).requires_grad_()
    y = layer.double()(x)
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum() + 0 * x.sum(), x, create_graph=True)
    return y.detach().abs().amax(0)


def bound(layer, order, interval=EVERYWHERE):
    return layer.lipschitz(interval) if order == 1 else layer.curvature(interval)


def is_sound_and_tight(layer, order, interval=EVERYWHERE, tight=1.01):
    found = bound(layer, order, interval)
    low, high = max(interval[0], -12.0), min(interval[1], 12.0)
    truth = reached(layer, order, low, high)
    assert found.dtype == torch.float64 and found.shape == (layer.num_channels,)
    assert (found >= truth).all()
    assert (found <= tight * truth).all(), found / truth


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kernel", SMOOTH, ids=repr)
@pytest.mark.parametrize("init", [Normal(0.3), Normal(35.0), Ridge(F.elu)], ids=repr)
def test_smooth_kernels(kernel, init, order):
    torch.manual_seed(0)
    is_sound_and_tight(KAF(3, kernel=kernel, init=init), order)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("interval", [(-1.0, 0.3), (0.0, math.inf), (-math.inf, -2.5), (4.0, 7.0), (0.1, 0.1001)])
def test_intervals(interval, order):
    torch.manual_seed(1)
    for kernel in (Gaussian(), Matern32(), Periodic()):
        is_sound_and_tight(KAF(3, kernel=kernel), order, interval)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("interval", [(-1e300, 1e300), (1e17, 2e17), (5.0, math.inf)])
def test_an_interval_longer_than_the_period_has_the_global_bound(interval, order):
    layer = KAF(2, kernel=Periodic(), init=Normal(std=1))
    assert torch.equal(bound(layer, order, interval), bound(layer, order))


def test_bounds_are_small_far_from_the_dictionary():
    assert KAF(3).lipschitz((30.0, math.inf)).max() < 1e-20
    layer = KAF(3, kernel=RationalQuadratic())
    found, truth = layer.lipschitz((50.0, 60.0)), reached(layer, 1, 50.0, 60.0)
    assert (found >= truth).all() and found.max() < 1e-3
    assert layer.lipschitz((1e6, math.inf)).max() < 1e-13


@pytest.mark.parametrize("kernel", [Laplacian(), TriangularKernel()], ids=repr)
def test_kinks(kernel):
    torch.manual_seed(0)
    # spacing and length are powers of two: knots coincide
    bandwidth = 2.0 if isinstance(kernel, TriangularKernel) else 0.7
    layer = KAF(3, kernel=kernel, num_dict=9, boundary=2.0, bandwidth=bandwidth)
    found = layer.lipschitz()
    truth = reached(layer, 1, count=400_000)
    assert (found >= truth).all() and (found <= 1.001 * truth).all()
    assert layer.curvature().isinf().all()
    if isinstance(kernel, Laplacian):
        is_sound_and_tight(layer, 2, (0.05, 0.45))
    else:
        assert layer.curvature((0.05, 0.45)).tolist() == [0, 0, 0]
    assert layer.curvature((0.05, 0.55)).isinf().all()
    assert not layer.curvature((0.0, 0.5)).isinf().any()
    with torch.no_grad():
        layer.alpha[1] = 0
    assert layer.curvature().tolist() == [math.inf, 0, math.inf] and layer.lipschitz()[1] == 0


def test_knots_an_ulp_apart_stay_sound():
    torch.manual_seed(0)
    layer = KAF(5, kernel=TriangularKernel())
    found = layer.lipschitz()
    x = (layer.dictionary.double()[:, None] + torch.linspace(-1e-7, 1e-7, 2001)).flatten()
    x = x.unsqueeze(1).repeat(1, 5).requires_grad_()
    (slopes,) = torch.autograd.grad(layer.double()(x).sum(), x)
    assert (found >= slopes.abs().amax(0)).all()


@pytest.mark.parametrize("kernel", [Gaussian(), Matern52(), Laplacian()], ids=repr)
def test_free_dictionaries_and_shared_sets(kernel):
    torch.manual_seed(0)
    layer = KAF(4, kernel=kernel, free=True, groups=2)
    with torch.no_grad():
        layer.dictionary += 0.1 * torch.randn(2, 20)
        layer.bandwidth *= torch.tensor([0.5, 2.0])
    is_sound_and_tight(layer, 1)
    shared = KAF(6, kernel=kernel, groups=3).lipschitz()
    assert shared[0] == shared[1] and shared[2] == shared[3] and len(set(shared.tolist())) == 3


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "kernels",
    [[Gaussian(), Matern32(), RationalQuadratic()], [Gaussian(), Periodic()], [Periodic(), Periodic(3.0)]],
    ids=repr,
)
def test_mixtures(kernels, order):
    torch.manual_seed(0)
    layer = MultiKAF(3, kernels=kernels)
    with torch.no_grad():
        layer.mix += torch.randn_like(layer.mix)
    both = len(kernels) == 2 and all(isinstance(k, Periodic) for k in kernels)
    is_sound_and_tight(layer, order, tight=2.0 if both else 1.02)


def test_residual_layers():
    torch.manual_seed(0)
    joint = ResidualKAF(3)
    is_sound_and_tight(joint, 1)
    is_sound_and_tight(joint, 2)
    for layer in (ResidualKAF(3, base=ELU), ResidualKAF(3, base=ELU, kaf=lambda c: KAF(c, kernel=Matern52()))):
        for order, interval in ((1, EVERYWHERE), (2, (-5.0, -0.1))):
            parts = bound(layer.base, order, interval) + bound(layer.kaf, order, interval)
            assert torch.equal(bound(layer, order, interval), parts)
            assert (parts >= reached(layer, order, max(interval[0], -12), min(interval[1], 12))).all()
    zero = ResidualKAF(2, kaf=lambda c: KAF(c, kernel=RationalQuadratic(), init=Normal(0.0)))
    assert zero.lipschitz().tolist() == pytest.approx([1, 1], rel=1e-5) and (zero.lipschitz() >= 1).all()
    assert Identity(2).lipschitz().tolist() == [1, 1] and Identity(2).curvature().tolist() == [0, 0]


def test_diverged_layers_are_unbounded():
    layer = KAF(2, free=True)
    with torch.no_grad():
        layer.bandwidth[0] = -1
    assert layer.lipschitz().isinf().tolist() == [True, False]
    with torch.no_grad():
        layer.double().bandwidth[0] = 1e200
    assert layer.lipschitz().isinf().tolist() == [True, False]
    layer = KAF(2)
    with torch.no_grad():
        layer.alpha[1, 3] = math.nan
    assert layer.lipschitz().isinf().tolist() == [False, True]


def test_bounds_do_not_change_the_layer_and_need_no_grad_mode():
    layer = KAF(2, kernel=Matern32(), free=True)
    expected = layer.lipschitz()
    with torch.inference_mode():
        assert torch.equal(layer.lipschitz(), expected)
    assert not expected.requires_grad and layer.alpha.dtype == torch.float32 and layer.alpha.grad is None


def growth(layer):
    moments = layer.gaussian_moments()
    return (moments.squared_slope.mean() / moments.variance.mean()).sqrt().item()


def test_gradient_growth_behind_batch_norm():
    # the moments are averaged over channels, as in a wide random layer
    torch.manual_seed(0)
    assert growth(KAF(300)) == pytest.approx(1.79, abs=0.05)
    authors = KAF(300, boundary=4.0, bandwidth=0.5 / (2 * 8 / 19) ** 2, init=Normal(0.8))
    assert growth(authors) == pytest.approx(1.41, abs=0.05)
    assert growth(KAF(1, init=Ridge(F.elu))) == pytest.approx(1.04, abs=0.01)
    assert growth(ResidualKAF(300)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("layer", [KAF(1, init=Normal(35.0)), MultiKAF(1)], ids=["KAF", "MultiKAF"])
def test_bounds_are_those_of_the_even_dictionary_that_the_engine_computes(layer, order):
    """Points stored in float32 give other values: on short intervals a bound may then lie below the truth."""
    for middle in torch.linspace(-2.9, 3.1, 25).tolist():
        interval = middle - 1e-9, middle + 1e-9
        assert (bound(layer, order, interval) >= reached(layer, order, middle, middle, 1)).all()
