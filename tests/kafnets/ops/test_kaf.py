import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from kafnets import functional, ops
from kafnets.activations import KAF, Normal
from kafnets.ops import gaussian_sum, tiling
from kafnets.ops.uniform_recurrence import plan_recurrence

from .layouts import LAYOUTS, randn


@pytest.fixture(params=["native", "eager", "reference"], autouse=True)
def engine(request):
    """Every test runs on every engine of a CPU."""
    try:
        with ops.force(request.param):
            ops.engine_for(torch.device("cpu"))
            yield request.param
    except ValueError as reason:
        pytest.skip(str(reason))


def fixed(size=20, boundary=3.0, bandwidth=None, dtype=torch.float64):
    dictionary = torch.linspace(-boundary, boundary, size, dtype=dtype)
    step = 2 * boundary / (size - 1)
    return dictionary, torch.tensor(bandwidth or 1 / (6 * step**2), dtype=dtype)


def wide_inputs(channels, dtype=torch.float64):
    special = torch.tensor([1e-42, -1e-42, 0.0, 1e38])
    x = torch.cat([torch.linspace(-12, 12, 3001), torch.linspace(-1e4, 1e4, 301), special])
    return x.to(dtype).unsqueeze(1).repeat(1, channels)


def values_and_gradients(function, x, alpha, v):
    x, alpha = x.detach().requires_grad_(), alpha.detach().requires_grad_()
    y = function(x, alpha)
    return y.detach(), *torch.autograd.grad(y, (x, alpha), v.to(y))


def error(found, expected):
    """Largest error, relative to the largest value of each channel."""
    return ((found.double() - expected).abs().amax(0) / expected.abs().amax(0)).max().item()


@pytest.fixture
def lean_engine(engine):
    """For promises about memory and work, which the reference does not make."""
    if engine == "reference":
        pytest.skip("the reference leaves differentiation to PyTorch")


@pytest.fixture(params=[True, False], ids=["grid", "no grid"])
def on_grid(request):
    return request.param


@pytest.mark.parametrize("size", [2, 3, 5, 20, 21, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("scale", [0.05, 35.0])
def test_agrees_with_the_reference(size, dtype, scale, on_grid):
    torch.manual_seed(size)
    dictionary, bandwidth = fixed(size)
    alpha = (scale * torch.randn(3, size)).double()
    x = wide_inputs(3, dtype)
    v = torch.randn(x.shape, dtype=torch.float64)
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    small = dictionary.to(dtype), bandwidth.to(dtype)
    found = values_and_gradients(lambda x, a: ops.kaf(x, a, *small, grid=grid), x, alpha.to(dtype), v)
    expected = values_and_gradients(lambda x, a: functional.kaf(x, a, dictionary, bandwidth), x.double(), alpha, v)
    limit = 1e-12 if dtype == torch.float64 else 5e-6
    assert error(found[0], expected[0]) < limit
    assert error(found[1], expected[1]) < limit
    # thousands of float32 values are summed; points 0.1 apart are themselves rounded
    assert error(found[2], expected[2]) < 2 * limit


@pytest.mark.parametrize("name", ["elu", "silu", "relu"])
def test_large_ridge_coefficients(name, on_grid, engine):
    dictionary, bandwidth = fixed()
    target = getattr(torch.nn.functional, name)
    alpha = functional.ridge(dictionary, bandwidth, target(dictionary)).float().unsqueeze(0)
    assert alpha.abs().max() > 20
    x = wide_inputs(1, torch.float32)
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    found = ops.kaf(x, alpha, dictionary.float(), bandwidth.float(), grid=grid)
    # float32 rounds a dictionary by up to 1.2e-7, which coefficients of 70 amplify; this error is not measured here
    small = (dictionary, bandwidth) if on_grid else (dictionary.float().double(), bandwidth.float().double())
    expected = functional.kaf(x.double(), alpha.double(), *small)
    assert error(found, expected) < (1e-5 if engine == "reference" else 5e-6)


@pytest.mark.parametrize("bandwidth", [1e-3, 0.05, 3.0, 100.0, 1e3])
@pytest.mark.parametrize("boundary", [0.5, 6.0])
def test_any_bandwidth(bandwidth, boundary):
    torch.manual_seed(0)
    dictionary, gamma = fixed(12, boundary, bandwidth)
    alpha, x = torch.randn(2, 12, dtype=torch.float64), wide_inputs(2)
    grid = ops.Grid.of(dictionary, gamma)
    small = dictionary.float(), gamma.float()
    v = torch.randn_like(x)
    found = values_and_gradients(lambda x, a: ops.kaf(x, a, *small, grid=grid), x.float(), alpha.float(), v)
    # the reference takes the rounded x: a steep f changes by more than the allowed error otherwise
    reference = lambda x, a: functional.kaf(x, a, dictionary, gamma)  # noqa: E731
    expected = values_and_gradients(reference, x.float().double(), alpha.float().double(), v)
    assert max(error(f, e) for f, e in zip(found, expected, strict=True)) < 5e-5


def test_subnormal_terms_count_as_zero_inside_and_nowhere_else(engine):
    """Arithmetic with subnormal numbers, which far dictionary points would give, is slow on many processors."""
    if engine == "reference":
        pytest.skip("the reference is the plain formula")
    dictionary, bandwidth = fixed(dtype=torch.float32)
    x = torch.full((16, 1), 10.4)  # exp(-bandwidth 7.4^2) = 2e-40
    assert (ops.kaf(x, torch.full((1, 20), 1e30), dictionary, bandwidth) == 0).all()
    assert (torch.tensor([1e-40]) * 0.5 != 0).all()  # the rest of the process keeps them


def test_no_recurrence_for_long_dictionaries_and_extreme_bandwidths():
    assert plan_recurrence(ops.Grid.of(*fixed(20)), torch.float32)
    assert plan_recurrence(ops.Grid.of(*fixed(21)), torch.float32) is None
    assert plan_recurrence(ops.Grid.of(*fixed(20, bandwidth=1e4)), torch.float32) is None


def test_far_infinite_and_nan_inputs(on_grid):
    dictionary, bandwidth = fixed(dtype=torch.float32)
    alpha = torch.full((1, 20), 70.0, requires_grad=True)
    x = torch.tensor([math.inf, -math.inf, 1e30, -3e38, 1e4, 30.0]).unsqueeze(1).requires_grad_()
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    y = ops.kaf(x, alpha, dictionary, bandwidth, grid=grid)
    x_grad, alpha_grad = torch.autograd.grad(y.sum(), (x, alpha))
    assert y.abs().max() < 1e-10 and not y[:4].any()
    assert x_grad.abs().max() < 1e-10 and not x_grad[:4].any()
    assert alpha_grad.abs().max() < 1e-10
    nan = torch.tensor([[math.nan], [0.0]], requires_grad=True)
    y = ops.kaf(nan, alpha, dictionary, bandwidth, grid=grid)
    (x_grad,) = torch.autograd.grad(y.sum(), nan)
    assert y.isnan().tolist() == x_grad.isnan().tolist() == [[True], [False]]


def test_tails_are_small_everywhere(on_grid):
    dictionary, bandwidth = fixed(dtype=torch.float32)
    x = torch.cat([torch.linspace(-40, -8, 999), torch.linspace(8, 40, 999)]).unsqueeze(1).requires_grad_()
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    y = ops.kaf(x, torch.ones(1, 20), dictionary, bandwidth, grid=grid)
    assert y.abs().max() < 1e-10
    assert torch.autograd.grad(y.sum(), x)[0].abs().max() < 1e-10


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 3)])
def test_derivatives_of_a_fixed_dictionary(size, shape, on_grid):
    torch.manual_seed(0)
    dictionary, bandwidth = fixed(size, boundary=2.0)
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    inputs = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True),
        torch.randn(2, size, dtype=torch.float64, requires_grad=True),
    )
    function = lambda x, a: ops.kaf(x, a, dictionary, bandwidth, grid=grid)  # noqa: E731
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("per_channel", [True, False])
def test_derivatives_of_a_free_dictionary(per_channel):
    torch.manual_seed(0)
    dictionary, bandwidth = fixed(3, boundary=2.0)
    if per_channel:
        dictionary = dictionary + 0.1 * torch.randn(2, 3, dtype=torch.float64)
        bandwidth = bandwidth * torch.tensor([0.8, 1.3], dtype=torch.float64)
    inputs = (torch.randn(2, 2, 2, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64), dictionary, bandwidth)
    inputs = tuple(i.detach().clone().requires_grad_() for i in inputs)
    assert gradcheck(ops.kaf, inputs)
    assert gradgradcheck(ops.kaf, inputs)


def test_third_derivative():
    dictionary, bandwidth = fixed(6)
    alpha = torch.randn(1, 6, dtype=torch.float64)
    expected = found = None
    for function in (functional.kaf, ops.kaf):
        x = torch.linspace(-4, 4, 50, dtype=torch.float64).unsqueeze(1).requires_grad_()
        y = function(x, alpha, dictionary, bandwidth)
        for _ in range(3):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        expected, found = found, y.detach()
    torch.testing.assert_close(found, expected)


def test_a_gradient_penalty_reaches_the_coefficients():
    dictionary, bandwidth = fixed(dtype=torch.float32)
    alpha = torch.randn(4, 20, requires_grad=True)
    x = torch.randn(8, 4, requires_grad=True)
    y = ops.kaf(x, alpha, dictionary, bandwidth, grid=ops.Grid.of(dictionary, bandwidth))
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), alpha)[0].abs().sum() > 0


SHAPES = [(7, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4), (0, 3, 4, 4), (2, 3, 0), (300, 3, 9, 9)]
SHAPES += [(70, 37), (3, 20, 18, 19), (2, 16, 3, 3)]  # more than whole tiles and vectors


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_and_layouts(shape, layout, on_grid, monkeypatch):
    monkeypatch.setattr(tiling, "CPU_CHUNK", 100)
    if math.prod(shape) > 10_000:
        monkeypatch.setattr(tiling, "CPU_CHUNK", 5000)
    x = randn(shape, layout)
    dictionary, bandwidth = fixed(6)
    alpha, v = torch.randn(shape[1], 6, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    found = values_and_gradients(lambda x, a: ops.kaf(x, a, dictionary, bandwidth, grid=grid), x, alpha, v)
    expected = values_and_gradients(lambda x, a: functional.kaf(x, a, dictionary, bandwidth), x, alpha, v)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, atol=1e-11, rtol=1e-11)
    if layout == "channels_last" and x.numel():
        assert found[0].stride() == x.stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_storage_only(dtype, on_grid):
    torch.manual_seed(0)
    dictionary, bandwidth = fixed(dtype=torch.float32)
    alpha = functional.ridge(dictionary, bandwidth, dictionary.tanh()).repeat(2, 1)
    x = (3 * torch.randn(64, 2, 5, 5)).to(dtype)
    grid = ops.Grid.of(dictionary, bandwidth) if on_grid else None
    v = torch.randn(x.shape).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = values_and_gradients(lambda x, a: ops.kaf(x, a, dictionary, bandwidth, grid=grid), x, alpha, v)
    wide = values_and_gradients(
        lambda x, a: ops.kaf(x, a, dictionary, bandwidth, grid=grid), x.float(), alpha, v.float()
    )
    assert [t.dtype for t in found] == [dtype, dtype, torch.float32]
    torch.testing.assert_close(found[0], wide[0].to(dtype))
    torch.testing.assert_close(found[1], wide[1].to(dtype))
    torch.testing.assert_close(found[2], wide[2])


@pytest.mark.parametrize("free", [False, True])
def test_saves_no_large_tensor_but_x(free, lean_engine):
    dictionary, bandwidth = fixed(dtype=torch.float32)
    x, alpha = torch.randn(16, 4, 16, 16, requires_grad=True), torch.randn(4, 20, requires_grad=True)
    grid = None if free else ops.Grid.of(dictionary, bandwidth)
    small = dictionary, bandwidth
    if free:
        small = dictionary.repeat(4, 1).requires_grad_(), bandwidth.repeat(4).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        ops.kaf(x, alpha, *small, grid=grid)
    assert [t.data_ptr() for t in saved if t.numel() > 100] == [x.data_ptr()]


def test_an_attack_computes_gradients_of_its_images_only(monkeypatch, lean_engine):
    wanted, original = [], gaussian_sum.sweep
    monkeypatch.setattr(gaussian_sum, "sweep", lambda *a: (wanted.append(a[-1]), original(*a))[1])
    dictionary, bandwidth = fixed(dtype=torch.float32)
    x, alpha = torch.randn(4, 2, requires_grad=True), torch.randn(2, 20, requires_grad=True)
    grid = ops.Grid.of(dictionary, bandwidth)
    torch.autograd.grad(ops.kaf(x, alpha, dictionary, bandwidth, grid=grid).sum(), x)
    assert wanted == [(True, False, False), (False, True, False)]
    ops.kaf(x, alpha, dictionary, bandwidth, grid=grid).sum().backward()
    assert wanted[2:] == [(True, False, False), (False, True, True)]


def test_a_grid_is_for_fixed_parameters():
    dictionary, bandwidth = fixed()
    grid = ops.Grid.of(dictionary, bandwidth)
    with pytest.raises(ValueError, match="grid=None"):
        ops.kaf(torch.zeros(1, 1), torch.zeros(1, 20), dictionary, bandwidth.requires_grad_(), grid=grid)


@pytest.mark.parametrize(
    ("dictionary", "bandwidth"),
    [([0.0, 1.0, 3.0], 1.0), ([1.0, 0.0], 1.0), ([0.0, 0.0], 1.0), ([0.0, 1.0], -1.0), ([0.0, math.nan], 1.0)],
)
def test_no_grid_of_uneven_points_or_bad_bandwidths(dictionary, bandwidth):
    assert ops.Grid.of(torch.tensor(dictionary), torch.tensor(bandwidth)) is None


@pytest.mark.parametrize("free", [False, True])
def test_one_operator_of_a_compiled_network(free):
    torch.manual_seed(0)
    layer = KAF(4, free=free, init=Normal(0.5))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), layer, torch.nn.BatchNorm2d(4))
    graphs = []
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=lambda g, _: (graphs.append(g), g)[1])
    for size in (2, 3, 7):
        x = torch.randn(size, 3, 6, 6)
        expected = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
        found = torch.autograd.grad(compiled(x).square().mean(), list(net.parameters()))
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e)
    assert len(graphs) <= 2
    assert "kafnets.kaf" in str(graphs[0].graph)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_operators_pass_opcheck(layout):
    dictionary, bandwidth = fixed(5, dtype=torch.float32)
    x = torch.randn(2, 3, 4, 5).to(memory_format=layout).requires_grad_()
    alpha = torch.randn(3, 5, requires_grad=True)
    grid = [-3.0, 1.5, 5.0, float(bandwidth)]
    inputs = (x, alpha, dictionary, bandwidth, grid)
    torch.library.opcheck(torch.ops.kafnets.kaf, inputs)
    torch.library.opcheck(torch.ops.kafnets.kaf_backward, (x.detach(), *(i.detach() for i in inputs[:4]), grid, 1))
