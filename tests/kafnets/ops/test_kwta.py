import math
import sys
from functools import cache

import pytest
import torch
from torch import nn

from kafnets import functional, ops
from kafnets.activations import KWTA
from kafnets.ops import dispatch

kwta = sys.modules["kafnets.ops.kwta"]
INTEGER = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}
INTEGER[torch.bfloat16] = torch.int16
FORMATS = list(INTEGER)
PATHS = {"native": kwta.Native(), "compiled": kwta.Compiled(), "eager": kwta.Eager()}


@cache
def missing(name):
    """Why a path does not work here; empty if it does."""
    if name == "compiled":
        try:
            torch.compile(lambda x: x + 1)(torch.zeros(2))
        except Exception as error:  # a missing or broken compiler raises many types
            return f"torch.compile does not work here: {error}"
    return dispatch._no_native() if name == "native" else ""


@pytest.fixture
def take(monkeypatch):
    """A function that makes every k-WTA take one path, whatever the engine is."""

    def take(name):
        if reason := missing(name):
            pytest.skip(reason)
        monkeypatch.setattr(kwta, "path_for", lambda x: PATHS[name])

    return take


@pytest.fixture(params=PATHS)
def path(request, take):
    """Every test runs on every path. torch.compile is off here: other tests check that the compiled path compiles."""
    take(request.param)
    with torch.compiler.set_stance("force_eager"):
        yield PATHS[request.param]


@pytest.fixture
def few_steps(monkeypatch):
    """Short graphs: the compiler's time grows with them."""
    monkeypatch.setattr(kwta, "_STEPS", 2)


def same_bits(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return torch.equal(a.contiguous().view(INTEGER[a.dtype]), b.contiguous().view(INTEGER[b.dtype]))


def hard_rows(dtype, size):
    """Rows with all values that a comparison of bits could get wrong."""
    limits = torch.finfo(dtype)
    tiny = limits.smallest_normal
    special = [0.0, -0.0, tiny, -tiny, tiny / 4, -tiny / 4, limits.max, limits.min, math.inf, -math.inf]
    generator = torch.Generator().manual_seed(size)
    normal = torch.randn(12, size, generator=generator, dtype=torch.float64).to(dtype)
    normal[1] = normal[1].round()  # ties, both zeros
    normal[2] = -3.0
    normal[3] = 0.0
    normal[3, ::2] = -0.0
    normal[4] = torch.tensor(special, dtype=dtype).repeat(size // len(special) + 1)[:size]
    normal[5, ::3] = math.nan
    normal[6, ::3] = -torch.tensor(math.nan, dtype=dtype)
    normal[7] = math.nan
    normal[8] *= tiny / 8
    normal[9].relu_()
    normal[10, size // 2 :] = math.inf
    normal[11] = -math.inf
    return normal


@pytest.mark.parametrize(
    ("engine", "expected"), [("native", kwta.Native), ("triton", kwta.Compiled), ("eager", kwta.Eager)]
)
def test_every_engine_has_its_path(engine, expected, monkeypatch):
    monkeypatch.setattr(kwta, "engine_for", lambda device: engine)
    assert type(kwta.path_for(torch.zeros(1, 1))) is expected
    assert type(kwta.path_for(torch.zeros(1, 1, dtype=torch.float8_e5m2))) is kwta.Eager


@pytest.mark.parametrize("size", [1, 10, 31, 32, 33, 700])
@pytest.mark.parametrize("dtype", FORMATS)
def test_equals_the_reference_bit_for_bit(path, dtype, size):
    x = hard_rows(dtype, size)
    for ratio in (1e-6, 0.07, 0.2, 0.5, 0.9, 1.0):
        found = ops.kwta(x, ratio)
        for row in range(len(x)):
            expected = functional.kwta(x[row : row + 1], ratio)
            assert same_bits(found[row : row + 1], expected), (row, ratio)


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_huge_row(path, dtype):
    x = torch.randn(1, 300_000, dtype=torch.float64).to(dtype)
    assert same_bits(ops.kwta(x, 0.2), functional.kwta(x, 0.2))


@pytest.mark.parametrize("dtype", FORMATS)
def test_threshold_is_the_count_th_largest(path, dtype):
    x = torch.randn(5, 999, dtype=torch.float64).to(dtype)
    for count in (1, 2, 200, 998, 999):
        assert torch.equal(path.thresholds(x, count), x.sort(1, descending=True).values[:, count - 1])


def test_threshold_of_nan_is_infinite(path):
    x = torch.tensor([[math.nan, -math.nan, 1.0, math.inf]])
    assert [path.thresholds(x, count).item() for count in (1, 2, 3, 4)] == [math.inf] * 3 + [1.0]


def test_several_halvings_in_one_pass(monkeypatch):
    monkeypatch.setattr(kwta, "_CPU_HALVINGS", kwta._GPU_HALVINGS)
    x = hard_rows(torch.float32, 700)
    expected = kwta.Eager().thresholds(x, 140)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(kwta.Compiled().thresholds(x, 140), expected)


@pytest.mark.parametrize("values", [1, 700 * 5])
def test_rows_in_several_calls(monkeypatch, values):
    monkeypatch.setattr(kwta, "_CPU_VALUES", values)
    x = hard_rows(torch.float32, 700)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(kwta.Compiled().thresholds(x, 140), kwta.Eager().thresholds(x, 140))


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 3, 2, 2, 2), (0, 3, 2), (2, 0), (1, 1), (2, 5, 1, 1)])
def test_shapes(path, shape):
    x = torch.randn(shape)
    assert same_bits(ops.kwta(x, 0.3), functional.kwta(x, 0.3))


def test_each_sample_has_its_own_threshold(path):
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    assert ops.kwta(x, 0.5).tolist() == [[0, 0, 3, 4], [0, 0, 30, 40]]


def test_ties_and_equal_rows_are_kept(path):
    x = torch.tensor([[1.0, 2.0, 2.0, 2.0], [-3.0, -3.0, -3.0, -3.0]])
    assert ops.kwta(x, 0.25).tolist() == [[0, 2, 2, 2], [-3, -3, -3, -3]]


def layouts():
    x = torch.randn(4, 6, 5, 8)
    yield "channels_last", x.to(memory_format=torch.channels_last), (40 * 6, 1, 8 * 6, 6)
    yield "width before height", x.transpose(2, 3).contiguous().transpose(2, 3), (240, 40, 1, 5)
    yield "every other channel", x[:, ::2], (120, 40, 8, 1)
    yield "every other column", x[..., ::2], (120, 20, 4, 1)
    yield "channels first of all", x.transpose(0, 1), (160, 40, 8, 1)
    yield "expanded", x[:, :1].expand(4, 6, 5, 8), None


@pytest.mark.parametrize(("x", "strides"), [pytest.param(x, s, id=name) for name, x, s in layouts()])
def test_memory_layouts(path, x, strides):
    x = x.detach().requires_grad_()
    found = ops.kwta(x, 0.3)
    assert same_bits(found, functional.kwta(x.contiguous(), 0.3))
    assert strides is None or found.stride() == strides
    # the cotangent's layout need not be that of x
    cotangent = torch.randn(x.shape).transpose(1, 3).contiguous().transpose(1, 3)
    (slope,) = torch.autograd.grad(found, x, cotangent)
    assert torch.equal(slope, torch.where(found == 0, 0, cotangent))


def test_gradient_is_the_mask_to_any_order(path):
    x = torch.randn(3, 2, 17, dtype=torch.float64, requires_grad=True)
    y = ops.kwta(x, 0.4)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.equal(slope, (y != 0).to(slope))
    assert torch.autograd.gradcheck(lambda t: ops.kwta(t, 0.4), x)
    assert torch.autograd.gradgradcheck(lambda t: ops.kwta(t, 0.4), x)


@pytest.mark.parametrize("dtype", FORMATS)
def test_gradient_at_zeros_and_nan(path, dtype):
    """Kept zeros pass the cotangent on, dropped values never do."""
    x = torch.tensor([[0.0, -0.0, -1.0, math.nan], [-2.0, -2.0, -3.0, -math.inf]], dtype=dtype, requires_grad=True)
    cotangent = torch.tensor([[1.0, 2.0, math.nan, 4.0], [math.nan, -0.0, math.inf, math.nan]], dtype=dtype)
    (slope,) = torch.autograd.grad(ops.kwta(x, 0.5), x, cotangent)
    expected = torch.tensor([[1.0, 2.0, 0.0, 4.0], [math.nan, -0.0, 0.0, 0.0]], dtype=dtype)
    assert same_bits(slope, expected)


@pytest.mark.parametrize(("name", "bytes_per_value"), [("native", 1 / 8), ("compiled", 4), ("eager", 1)])
def test_memory_saved_for_backward(name, bytes_per_value, take):
    take(name)
    saved = []
    x = torch.randn(4, 1024, requires_grad=True)
    with (
        torch.compiler.set_stance("force_eager"),
        torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t),
    ):
        ops.kwta(x, 0.4)
    thresholds = x.shape[0] * 4 if name == "compiled" else 0
    assert sum(t.nbytes for t in saved) == bytes_per_value * x.numel() + thresholds


def test_the_number_of_threads_does_not_change_a_bit(take):
    take("native")
    before = torch.get_num_threads()
    try:
        for shape in ((1, 5000), (3, 777), (17, 33)):
            x, found = torch.randn(shape, requires_grad=True), []
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                y = ops.kwta(x, 0.3)
                found.append(torch.cat([y, *torch.autograd.grad(y.square().sum(), x)]))
            assert same_bits(found[0], found[1])
            assert same_bits(found[0], found[2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_path_gives_the_same_bits(few_steps, dtype):
    if reason := missing("compiled"):
        pytest.skip(reason)
    x, cotangent = hard_rows(dtype, 100).requires_grad_(), torch.randn(12, 100).to(dtype)
    results = []
    for name in ("compiled", "eager"):
        y = kwta.kwta_along(PATHS[name], x, 0.2)
        results.append(torch.cat([y, *torch.autograd.grad(y, x, cotangent)]))
    assert same_bits(*results)


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_batch_sizes_share_graphs(few_steps, take):
    take("compiled")
    ops.kwta(torch.randn(7, 3, 4, 4), 0.5)
    before = graphs()
    for shape in ((5, 3, 4, 4), (4, 2, 8, 8), (13, 50), (2, 3, 9)):
        for context in (torch.enable_grad(), torch.no_grad()):
            with context:
                x = torch.randn(shape)
                assert torch.equal(ops.kwta(x, 0.3), functional.kwta(x, 0.3))
    assert graphs() == before


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), KWTA(8, ratio=0.3), nn.Conv2d(8, 4, 3), KWTA(4), nn.Flatten())


@pytest.mark.parametrize("name", PATHS)
def test_a_whole_network_compiles_into_one_graph(name, few_steps, take):
    take(name)
    net, x = Network(), torch.randn(4, 3, 8, 8, requires_grad=True)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    found, expected = compiled(x), net(x)
    torch.testing.assert_close(found, expected)
    wanted = [x, *net.parameters()]
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_changing_ratio_does_not_compile_again():
    torch._dynamo.reset()
    net, x = Network(), torch.randn(4, 3, 8, 8)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    before = graphs()
    for step in range(12):  # more than torch.compile's limit
        net[1].ratio = 0.3 - 0.01 * step
        torch.testing.assert_close(compiled(x), net(x))
    assert graphs() - before <= 2


def test_the_operator_of_compiled_networks_passes_opcheck(path):
    for shape in ((3, 10), (2, 3, 4, 4), (0, 4)):
        torch.library.opcheck(kwta._thresholds, (torch.randn(shape), torch.tensor(0.3)))
    assert kwta._thresholds(torch.zeros(0, 4), torch.tensor(0.3)).shape == (0,)


def test_the_error_names_a_bad_ratio_in_a_compiled_network():
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], got 1.5"):
        torch.compile(lambda x: ops.kwta(x, 1.5), backend="aot_eager")(torch.zeros(1, 2))


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, math.nan])
def test_the_error_names_a_bad_ratio(ratio):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], got"):
        ops.kwta(torch.zeros(1, 2), ratio)
