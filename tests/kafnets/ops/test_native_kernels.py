"""Sums over the kernels that are built into the C++ engine, compared with the tiles of PyTorch operations."""

import math
import platform
from functools import partial

import pytest
import torch

from kafnets import functional, ops
from kafnets.activations import KAF
from kafnets.activations.kernels import Gaussian, Laplacian
from kafnets.ops import dispatch
from kafnets.ops.native import NativeSweep
from kafnets.ops.native.kernels import NamedKernel

if reason := dispatch._no_native():
    pytest.skip(reason, allow_module_level=True)

KERNELS = {
    "laplacian": functional.laplacian,
    "matern32": functional.matern32,
    "matern52": functional.matern52,
    "rational_quadratic": functional.rational_quadratic,
    "mixture 2.5": partial(functional.rational_quadratic, mixture=2.5),
    "mixture 1000": partial(functional.rational_quadratic, mixture=1e3),
    "periodic": functional.periodic,
    "triangular": functional.triangular,
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def gradients_by(engine, kernel, x, small, v):
    inputs = [t.detach().requires_grad_() for t in (x, *small)]
    with ops.force(engine):
        y = ops.terms(*inputs, kernel)
        return y.detach(), *torch.autograd.grad(y, inputs, v.to(y.dtype))


def error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


def free_layer(channels, size, per_channel, dtype):
    dictionary, bandwidth = torch.linspace(-3, 3, size).repeat(channels, 1), torch.full((channels,), 0.7)
    if not per_channel:
        return 35 * torch.randn(channels, size).to(dtype), dictionary[0].to(dtype), bandwidth[0].to(dtype)
    # one of the points in the middle stays 0, where a kink is met exactly
    dictionary = dictionary * (1 + 0.1 * torch.rand(channels, 1))
    return [t.to(dtype) for t in (35 * torch.randn(channels, size), dictionary, bandwidth + torch.rand(channels))]


def check_whole_range(kernel, dtype, limit):
    torch.manual_seed(0)
    special = torch.tensor([0.0, -0.0, 1e-42, -1e-42, 9e14, 1e16, -3e38, math.inf, -math.inf])
    x = torch.cat([12 * torch.rand(3000) - 6, 2e3 * torch.rand(300) - 1e3, special]).to(dtype).unsqueeze(1).repeat(1, 3)
    small, v = free_layer(3, 21, True, dtype), torch.randn(x.shape, dtype=dtype)
    v[x.abs() > 1e14] = 0  # the sine of the periodic kernel is lost there, also in float64
    found = gradients_by("native", kernel, x, small, v)
    expected = gradients_by("eager", kernel, x.double(), [t.double() for t in small], v)
    near = x.abs() < 1e14
    assert error(found[0][near], expected[0][near]) < limit and found[0].isfinite().all()
    assert error(found[1][near], expected[1][near]) < limit and found[1].isfinite().all()
    assert max(error(f, e) for f, e in zip(found[2:], expected[2:], strict=True)) < 2 * limit


@every_kernel
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 5e-6), (torch.float64, 1e-12)], ids=str)
def test_agrees_with_the_formula_over_the_whole_range(kernel, dtype, limit):
    check_whole_range(kernel, dtype, limit)


@pytest.mark.slow
@every_kernel
@pytest.mark.parametrize("march", ["x86-64-v3", "x86-64"])
def test_agrees_on_older_processors(kernel, march, monkeypatch):
    if platform.machine() != "x86_64":
        pytest.skip("x86-64 is needed")
    monkeypatch.setattr(NativeSweep, "march", march)
    check_whole_range(kernel, torch.float32, 5e-6)
    check_whole_range(kernel, torch.float64, 1e-12)


@every_kernel
def test_nan_stays_with_its_value(kernel):
    x = torch.tensor([[math.nan], [0.5], [9.0]], requires_grad=True)
    y = ops.terms(x, torch.ones(1, 4), torch.linspace(-1, 1, 4), torch.tensor(1.5), kernel)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert y.isnan().flatten().tolist() == [True, False, False]
    # in PyTorch too, the slope of a kink is finite there
    assert not slope[1:].isnan().any()


@pytest.mark.parametrize("kernel", [functional.matern32, functional.periodic], ids=["1 number", "2 numbers"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "lanes"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "shared"])
def test_more_than_whole_vectors_in_every_layout(kernel, layout, per_channel):
    torch.manual_seed(0)
    x, v = torch.randn(3, 20, 18, 19).to(memory_format=layout), torch.randn(3, 20, 18, 19)
    small = free_layer(20, 6, per_channel, torch.float32)
    found = gradients_by("native", kernel, x, small, v)
    expected = gradients_by("eager", kernel, x.double(), [t.double() for t in small], v)
    # not the gradient of a shared bandwidth, a single number that cancels; gradcheck sees that one
    assert max(error(f, e) for f, e in zip(found[:4], expected[:4], strict=True)) < 5e-6
    assert found[0].stride() == found[1].stride() == x.stride()


def test_one_pass_each_way_and_an_attack_sums_no_moments(monkeypatch):
    passes, run = [], NamedKernel._run
    monkeypatch.setattr(NamedKernel, "_run", lambda *a, **k: (passes.append(k.get("powers")), run(*a, **k))[1])
    layer, x = KAF(2, kernel=Laplacian()), torch.randn(4, 2, requires_grad=True)
    torch.autograd.grad(layer(x).sum(), x)
    layer(x).sum().backward()
    KAF(2, kernel=Laplacian(), free=True)(x).sum().backward()
    assert passes == [None, 0, None, 1, None, 2]


def test_a_sharp_periodic_kernel_is_as_exact_as_the_formula():
    x, alpha, points = torch.tensor([[1e-3], [0.5]]), torch.ones(1, 2), torch.tensor([0.0, 0.5])
    found = ops.terms(x, alpha, points, torch.tensor(1e6), functional.periodic)
    torch.testing.assert_close(found, functional.kaf(x, alpha, points, 1e6, functional.periodic))


@pytest.mark.parametrize("parent", [Laplacian, Gaussian])
def test_a_kernel_derived_from_a_built_in_one_keeps_its_own_formula(parent):
    class Cosine(parent):
        def __call__(self, t, bandwidth):
            return torch.cos(bandwidth * t)

    layer, x = KAF(1, kernel=Cosine()), torch.randn(5, 1)
    torch.testing.assert_close(layer(x), functional.kaf(x, layer.alpha, layer.dictionary, layer.bandwidth, Cosine()))


def test_heavy_tails_far_away():
    x, alpha, points = torch.tensor([[1e12], [1e14]]).double(), torch.ones(1, 1).double(), torch.zeros(1).double()
    kernel = partial(functional.rational_quadratic, mixture=0.01)
    gamma = torch.tensor(1e10).double()
    torch.testing.assert_close(ops.terms(x, alpha, points, gamma, kernel), (1 + 100 * gamma * x**2) ** -0.01)
