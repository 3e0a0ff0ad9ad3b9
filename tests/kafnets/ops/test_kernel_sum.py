"""The Gaussian is computed in tiles; on a CPU with a compiler the other kernels are computed in C++."""

import math
import weakref

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kafnets import functional, ops
from kafnets.ops import fold
from kafnets.ops.fold import Fold

KERNELS = [
    functional.gaussian,
    functional.laplacian,
    functional.matern32,
    functional.matern52,
    functional.rational_quadratic,
    functional.periodic,
    functional.triangular,
]
FALLING = [k for k in KERNELS if k is not functional.periodic]
SHAPES = [(7, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4), (0, 3, 4, 4), (2, 3, 0), (40, 3, 9, 9)]


def named(kernels):
    return pytest.mark.parametrize("kernel", kernels, ids=lambda k: k.__name__)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that a small input is cut along every axis."""
    monkeypatch.setattr(fold, "CPU_TILE", 24)


def inputs(shape=(4, 2, 3), size=3, per_channel=True):
    torch.manual_seed(0)
    channels = shape[1]
    dictionary = torch.linspace(-2, 2, size, dtype=torch.float64)
    bandwidth = torch.tensor(0.4, dtype=torch.float64)
    if per_channel:
        dictionary = dictionary + 0.1 * torch.randn(channels, size, dtype=torch.float64)
        bandwidth = bandwidth * (1 + 0.3 * torch.rand(channels, dtype=torch.float64))
    alpha = torch.randn(channels, size, dtype=torch.float64)
    return [t.requires_grad_() for t in (torch.randn(shape, dtype=torch.float64), alpha, dictionary, bandwidth)]


@named(KERNELS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_the_formula(kernel, per_channel, shape, monkeypatch):
    monkeypatch.setattr(fold, "CPU_TILE", 500)
    given = inputs(shape, per_channel=per_channel)
    v = torch.randn(shape, dtype=torch.float64)
    found, expected = ops.terms(*given, kernel), functional.kaf(*given, kernel)
    torch.testing.assert_close(found, expected)
    pairs = zip(torch.autograd.grad(found, given, v), torch.autograd.grad(expected, given, v), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


@named(KERNELS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_first_and_second_derivatives(kernel, per_channel, small_tiles):
    given = inputs((2, 2, 2), size=2, per_channel=per_channel)
    function = lambda *tensors: ops.terms(*tensors, kernel)  # noqa: E731
    assert gradcheck(function, given)
    assert gradgradcheck(function, given)


@named([functional.gaussian, functional.matern52, functional.periodic])
def test_third_derivative(kernel, small_tiles):
    found = []
    for function in (functional.kaf, ops.terms):
        x, alpha, dictionary, bandwidth = inputs()
        y = function(x, alpha, dictionary, bandwidth, kernel)
        for _ in range(3):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        found.append([y, *torch.autograd.grad(y.square().sum(), (alpha, dictionary, bandwidth))])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_gradient_penalty_reaches_the_coefficients():
    x, alpha, dictionary, bandwidth = inputs()
    (slope,) = torch.autograd.grad(
        ops.terms(x, alpha, dictionary, bandwidth, functional.matern32).sum(), x, create_graph=True
    )
    assert torch.autograd.grad(slope.square().sum(), alpha)[0].abs().sum() > 0


@named(KERNELS)
def test_far_infinite_and_nan_inputs(kernel):
    x = torch.tensor([math.inf, -math.inf, 3e38, -1e30, 1e16, 9e14, 0.5]).unsqueeze(1).requires_grad_()
    small = torch.full((1, 4), 70.0), torch.linspace(-1, 1, 4).unsqueeze(0), torch.tensor([1.5])
    small = [t.requires_grad_() for t in small]
    y = ops.terms(x, *small, kernel)
    grads = torch.autograd.grad(y.sum(), [x, *small], create_graph=True)
    again = torch.autograd.grad(grads[0].sum(), [x, small[0]])
    assert not y[:5].any() and not grads[0][:5].any() and not again[0][:5].any()
    assert all(t.isfinite().all() for t in (y, *grads, *again))
    nan = torch.tensor([[math.nan], [0.0]])
    assert ops.terms(nan, *small, kernel).isnan().tolist() == [[True], [False]]


@named(FALLING)
def test_values_fall_to_zero(kernel):
    y = ops.terms(torch.tensor([[1e6], [-1e6]]), torch.ones(1, 4), torch.linspace(-1, 1, 4), torch.tensor(1.5), kernel)
    assert y.abs().max() < 1e-10


@named([functional.laplacian, functional.triangular])
def test_a_kink_has_the_mean_of_both_slopes(kernel):
    alpha, dictionary = torch.tensor([[1.0, -3.0, 2.0]]).double(), torch.tensor([-1.0, 0.0, 1.0]).double()
    points = torch.tensor([[-1.0], [0.0], [1.0]]).double()
    slopes = []
    for shift in (0.0, -1e-9, 1e-9):
        x = (points + shift).requires_grad_()
        slopes.append(torch.autograd.grad(ops.terms(x, alpha, dictionary, torch.tensor(0.5), kernel).sum(), x)[0])
    torch.testing.assert_close(slopes[0], (slopes[1] + slopes[2]) / 2, atol=1e-7, rtol=0)
    assert (slopes[1] - slopes[2]).abs().min() > 0.5


@named([functional.matern32, functional.matern52])
def test_curvature_is_right_on_a_dictionary_point(kernel):
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    y = ops.terms(x, torch.ones(1, 1).double(), torch.zeros(1).double(), torch.tensor(0.5).double(), kernel)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert slope.item() == 0
    assert curvature.item() == pytest.approx(-3 if kernel is functional.matern32 else -5 / 3)


@named(KERNELS)
def test_float32_is_close_to_float64(kernel):
    given = inputs((64, 2, 9), size=20, per_channel=False)
    wide = functional.kaf(*given, kernel)
    found = ops.terms(*[t.float() for t in given], kernel)
    assert (found - wide).abs().max() < 2e-6 * given[1].abs().sum(1).max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [True, False])
@named([functional.gaussian, functional.matern32])
def test_half_precision_is_for_storage_only(dtype, autocast, kernel):
    x, alpha, dictionary, bandwidth = (t.detach().float() for t in inputs((64, 2, 9), size=20, per_channel=False))
    x, v = x.to(dtype).requires_grad_(), torch.randn(x.shape).to(dtype)
    alpha = (70 * alpha).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        y = ops.terms(x, alpha, dictionary, bandwidth, kernel)
        grads = torch.autograd.grad(y, (x, alpha), v)
    wide = x.detach().float().requires_grad_()
    expected = ops.terms(wide, alpha, dictionary, bandwidth, kernel)
    expected_grads = torch.autograd.grad(expected, (wide, alpha), v.float())
    assert [y.dtype, *(g.dtype for g in grads)] == [dtype, dtype, torch.float32]
    torch.testing.assert_close(y, expected.to(dtype))
    torch.testing.assert_close(grads[0], expected_grads[0].to(dtype))
    torch.testing.assert_close(grads[1], expected_grads[1])


@named([functional.gaussian, functional.laplacian])
def test_values_do_not_depend_on_the_memory_layout(kernel, small_tiles):
    x, *small = (t.detach() for t in inputs((3, 4, 5, 6)))
    expected = ops.terms(x, *small, kernel)
    strided = torch.empty(3, 4, 5, 12, dtype=x.dtype)[..., ::2].copy_(x)
    for other in (x.to(memory_format=torch.channels_last), strided, x.transpose(2, 3).contiguous().transpose(2, 3)):
        found = ops.terms(other, *small, kernel)
        torch.testing.assert_close(found, expected)
    assert ops.terms(x.to(memory_format=torch.channels_last), *small, kernel).is_contiguous(
        memory_format=torch.channels_last
    )


@named([functional.gaussian, functional.laplacian])
def test_saves_no_large_tensor_but_x_and_cotangents(kernel):
    x, alpha = torch.randn(16, 4, 16, 16, requires_grad=True), torch.randn(4, 20, requires_grad=True)
    v = torch.randn_like(x)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(weakref.ref(t)), t)[1], lambda t: t):
        y = ops.terms(x, alpha, torch.linspace(-3, 3, 20), torch.tensor(1.67), kernel)
        first = {t.data_ptr() for r in saved if (t := r()) is not None and t.numel() > 100}
        grads = torch.autograd.grad(y, (x, alpha), v, create_graph=True)
    second = {t.data_ptr() for r in saved if (t := r()) is not None and t.numel() > 100}
    assert first == {x.data_ptr()} and second == {x.data_ptr(), v.data_ptr()} and len(grads) == 2


def test_in_a_compiled_network():
    torch._dynamo.reset()
    x, *small = (t.detach() for t in inputs())
    x.requires_grad_()
    compiled = torch.compile(lambda x: ops.terms(x * 2, *small, functional.matern32).sin(), backend="eager")
    expected = ops.terms(x * 2, *small, functional.matern32).sin()
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0])


def test_an_attack_computes_gradients_of_its_images_only(monkeypatch):
    computed = []
    derivative = Fold.derivative
    monkeypatch.setattr(Fold, "derivative", lambda fold, wanted: computed.append(wanted) or derivative(fold, wanted))
    x, *small = inputs()
    y = ops.terms(x, *small, functional.matern32).sum()
    full = torch.autograd.grad(y, [x, *small], retain_graph=True)
    (found,) = torch.autograd.grad(y, x)
    assert computed == [(0, 1, 2, 3), (0,)]
    assert torch.equal(found, full[0])
