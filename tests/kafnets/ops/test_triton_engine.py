"""Triton's engine: on a GPU if there is one, otherwise in Triton's interpreter, in a process of its own."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kafnets import functional
from kafnets.ops import triton_engine, triton_launch
from kafnets.ops.eager import EagerSweep
from kafnets.ops.triton_engine import TritonSweep, available
from kafnets.ops.uniform_recurrence import Grid

from .layouts import LAYOUTS, randn

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
ALL = (True, True, True)

on_device = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="no GPU; test_in_the_interpreter runs this one"
)


@pytest.fixture(scope="session", autouse=INTERPRETED or torch.cuda.is_available())
def working():
    works, reason = available(DEVICE)
    if not works:
        pytest.skip(reason)


def dictionaries(form, size=3, boundary=3.0):
    points = torch.linspace(-boundary, boundary, size, dtype=torch.float64)
    gamma = torch.tensor(1 / (6 * (2 * boundary / (size - 1)) ** 2), dtype=torch.float64)
    if form == "per channel":
        gamma = gamma * torch.tensor([0.5, 1.0, 1.7], dtype=torch.float64)
        points = points + 0.2 * torch.randn(3, size, dtype=torch.float64)
    return points, gamma, Grid.of(points, gamma) if form == "grid" else None


def reference(x, a, v, weights, powers, points, gamma):
    """The three sums by their definition in float64, the slope by autograd."""
    x = x.detach().double().requires_grad_()
    a, v = (torch.ones_like(x) if t is None else t.double() for t in (a, v))
    t = x.movedim(1, -1).unsqueeze(-1) - points
    terms = [t**p * torch.exp(-(gamma.unsqueeze(-1) if gamma.dim() else gamma) * t**2) for p in range(4)]
    value = sum((w * term).sum(-1) for w, term in zip(weights.double(), terms, strict=False)).movedim(-1, 1)
    (slope,) = torch.autograd.grad(value.sum(), x)
    scale = (a * v).movedim(1, -1).unsqueeze(-1)
    moments = torch.stack([(scale * term).flatten(0, -3).sum(0) for term in terms[:powers]])
    return [found.detach() for found in (a * value, a * v * slope, moments)]


def to_device(*tensors):
    # not Tensor.to: it would make strided tensors dense
    return [None if t is None else t if DEVICE == "cpu" else t.cuda() for t in tensors]


def sweep(x, a, v, weights, powers, points, gamma, grid, *, want=ALL, engine=TritonSweep):
    x, a, v, weights, points, gamma = to_device(x, a, v, weights, points, gamma)
    found = engine(points, gamma, grid).sweep(x, a, v, weights, powers, want=want)
    return [None if t is None else t.cpu() for t in found]


def error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


@pytest.fixture(params=["grid", "no grid", "per channel"])
def form(request):
    torch.manual_seed(0)
    return request.param


@on_device
@pytest.mark.parametrize(("size", "powers"), [(2, 1), (5, 2), (4, 3)])
def test_agrees_with_the_definition(form, size, powers):
    points, gamma, grid = dictionaries(form, size)
    x, a, v = 2 * torch.randn(3, 3, 3, 4, 2, dtype=torch.float64)
    weights = torch.randn(powers, 3, size, dtype=torch.float64)
    found = sweep(x, a, v, weights, powers, points, gamma, grid)
    for f, e in zip(found, reference(x, a, v, weights, powers, points, gamma), strict=True):
        assert error(f, e) < 1e-12


SHAPES = [(7, 3), (2, 3, 5), (2, 3, 4, 4), (2, 3, 2, 1, 3), (40, 1)]


@on_device
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_and_layouts(shape, layout):
    torch.manual_seed(0)
    points, gamma, grid = dictionaries("grid", 2)
    x = randn(shape, layout)
    a, v = torch.randn(shape, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64).expand(shape[:2])
    v = v.reshape(*shape[:2], *(1 for _ in shape[2:])).expand(shape)
    weights = torch.randn(1, shape[1], 2, dtype=torch.float64)
    found = sweep(x, a, v, weights, 1, points, gamma, grid)
    for f, e in zip(found, reference(x, a, v, weights, 1, points, gamma), strict=True):
        assert error(f, e) < 1e-12
    assert found[0].stride() == (x.stride() if layout == "channels_last" else found[0].contiguous().stride())


@on_device
def test_more_channels_than_one_tile_holds():
    points, gamma, grid = dictionaries("grid", 2)
    x = torch.randn(3, 2, 35, dtype=torch.float64).movedim(-1, 1)
    weights = torch.randn(1, 35, 2, dtype=torch.float64)
    found = sweep(x, None, None, weights, 1, points, gamma, grid)
    for f, e in zip(found, reference(x, None, None, weights, 1, points, gamma), strict=True):
        assert error(f, e) < 1e-12


@on_device
@pytest.mark.parametrize("scales", [(False, False), (True, False), (False, True)])
def test_absent_scales_count_as_one(form, scales):
    points, gamma, grid = dictionaries(form)
    x, *av = torch.randn(3, 5, 3, 3, dtype=torch.float64)
    a, v = (t if given else None for t, given in zip(av, scales, strict=True))
    weights = torch.randn(1, 3, 3, dtype=torch.float64)
    found = sweep(x, a, v, weights, 1, points, gamma, grid)
    for f, e in zip(found, reference(x, a, v, weights, 1, points, gamma), strict=True):
        assert error(f, e) < 1e-12


@on_device
@pytest.mark.parametrize(
    "want", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_only_what_is_wanted(form, want):
    points, gamma, grid = dictionaries(form)
    x, weights = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    needed = weights if want[0] or want[1] else None
    found = sweep(x, None, None, needed, 2, points, gamma, grid, want=want)
    for f, e, wanted in zip(found, reference(x, None, None, weights, 2, points, gamma), want, strict=True):
        assert (f is not None) == wanted
        assert f is None or error(f, e) < 1e-12


@on_device
@pytest.mark.parametrize(
    ("even", "size", "target"),
    [(True, 20, "elu"), (True, 20, "silu"), (True, 21, None), (True, 64, None), (True, 64, "elu"), (False, 20, "silu")],
)
def test_float32_errs_by_a_few_millionths(even, size, target):
    torch.manual_seed(size)
    points, gamma, grid = dictionaries("grid" if even else "no grid", size)
    alpha = torch.randn(size).double()
    if target is not None:
        alpha = functional.ridge(points, gamma, getattr(torch.nn.functional, target)(points))
    weights = alpha.float().view(1, 1, -1)
    x = torch.cat([torch.linspace(-12, 12, 401), torch.linspace(-1e4, 1e4, 21), torch.tensor([1e-42, 1e30])])
    small = points.float(), gamma.float()
    found = sweep(x.unsqueeze(1), None, None, weights, 1, *small, grid)
    exact = (points, gamma) if even and size == 20 else (small[0].double(), small[1].double())
    expected = reference(x.unsqueeze(1), None, None, weights, 1, *exact)
    assert error(found[0], expected[0]) < 5e-6
    assert error(found[1], expected[1]) < 1e-5
    assert error(found[2], expected[2]) < 5e-6


@on_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_storage_only(dtype, form):
    points, gamma, grid = (t if t is None or isinstance(t, Grid) else t.float() for t in dictionaries(form))
    x, a, v = (2 * torch.randn(3, 6, 3, 4)).to(dtype)
    weights = torch.randn(1, 3, 3)
    found = sweep(x, a, v, weights, 1, points, gamma, grid)
    wide = sweep(x.float(), a.float(), v.float(), weights, 1, points, gamma, grid)
    assert [t.dtype for t in found] == [dtype, dtype, torch.float32]
    torch.testing.assert_close(found[0], wide[0].to(dtype))
    torch.testing.assert_close(found[1], wide[1].to(dtype))
    torch.testing.assert_close(found[2], wide[2])


@on_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_infinite_and_nan_inputs(form, dtype):
    points, gamma, grid = (t if t is None or isinstance(t, Grid) else t.to(dtype) for t in dictionaries(form))
    far = torch.tensor([math.inf, -math.inf, 1e30, -3e38, 1e4, 400.0], dtype=dtype).view(-1, 1, 1).repeat(1, 3, 1)
    weights = torch.full((2, 3, 3), 70.0, dtype=dtype)
    for found in sweep(far, None, None, weights, 3, points, gamma, grid):
        assert found.abs().max() < 1e-10
    nan = torch.tensor([math.nan, 0.0], dtype=dtype).view(-1, 1, 1).repeat(1, 3, 1)
    value, slope, moments = sweep(nan, None, None, weights, 1, points, gamma, grid)
    assert value[0].isnan().all() and slope[0].isnan().all() and moments.isnan().all()
    assert value[1].isfinite().all() and slope[1].isfinite().all()


@on_device
@pytest.mark.parametrize("channels_last", [False, True])
def test_many_programs_give_the_same_result_every_time(form, channels_last, monkeypatch):
    points, gamma, grid = dictionaries(form, 3)
    x, a = torch.randn(2, 150, 3, 4, dtype=torch.float64)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weights = torch.randn(1, 3, 3, dtype=torch.float64)
    monkeypatch.setattr(triton_launch, "LEAST_STEPS", 1)
    assert triton_launch.Tiles(x).chunks > 1
    many = sweep(x, a, None, weights, 1, points, gamma, grid)
    for m, e in zip(many, reference(x, a, None, weights, 1, points, gamma), strict=True):
        assert error(m, e) < 1e-12
    again = sweep(x, a, None, weights, 1, points, gamma, grid)
    assert all(torch.equal(m, s) for m, s in zip(many, again, strict=True))


@on_device
def test_offsets_of_64_bits(form, monkeypatch):
    monkeypatch.setattr(triton_launch, "WIDE_FROM", 0)
    points, gamma, grid = dictionaries(form)
    weights = torch.randn(1, 3, 3, dtype=torch.float64)
    for x in (torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)):
        found = sweep(x, None, None, weights, 1, points, gamma, grid)
        for f, e in zip(found, reference(x, None, None, weights, 1, points, gamma), strict=True):
            assert error(f, e) < 1e-12


@on_device
def test_moments_of_a_long_free_dictionary_are_computed_in_parts():
    points, gamma, _ = dictionaries("no grid", 22)
    assert triton_engine.MOST_SUMS < 22 * 3
    x, weights = torch.randn(9, 2, 3, dtype=torch.float64), torch.randn(1, 2, 22, dtype=torch.float64)
    found = sweep(x, None, None, weights, 3, points, gamma, None)
    for f, e in zip(found, reference(x, None, None, weights, 3, points, gamma), strict=True):
        assert f.shape == e.shape and error(f, e) < 1e-12


@on_device
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_empty(form, shape):
    points, gamma, grid = dictionaries(form)
    x, weights = torch.zeros(shape, dtype=torch.float64), torch.ones(1, 3, 3, dtype=torch.float64)
    value, slope, moments = sweep(x, None, None, weights, 2, points, gamma, grid)
    assert value.shape == slope.shape == shape
    assert moments.shape == (2, 3, 3) and not moments.any()


@on_device
def test_agrees_with_the_eager_engine(form):
    points, gamma, grid = (t if t is None or isinstance(t, Grid) else t.float() for t in dictionaries(form, 20))
    x, a, v = 2 * torch.randn(3, 4, 3, 5, 5)
    weights = torch.randn(1, 3, 20)
    found = sweep(x, a, v, weights, 1, points, gamma, grid)
    eager = sweep(x, a, v, weights, 1, points, gamma, grid, engine=EagerSweep)
    for f, e in zip(found, eager, strict=True):
        assert error(f, e.double()) < 1e-5


@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="no GPU")
def test_never_waits_for_the_gpu():
    points, gamma, grid = dictionaries("grid", 20)
    x, weights = torch.randn(64, 3, 8, 8, device="cuda"), torch.randn(1, 3, 20, device="cuda")
    engine = TritonSweep(points.float().cuda(), gamma.float().cuda(), grid)
    expected = engine.sweep(x, None, None, weights, 1, want=ALL)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # fails if anything waits
        found = engine.sweep(x, None, None, weights, 1, want=ALL)
    graph.replay()
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or triton_engine.triton is None, reason="Triton is not installed")
def test_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__)),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr
    if run.returncode == 0 and "passed" not in last:
        pytest.skip(f"the interpreter does not run here: {last}")
    assert run.returncode == 0, run.stdout[-4000:]


def test_the_reason_why_it_is_not_available():
    assert available("meta") == (False, "Triton needs a CUDA device, got meta")


def test_imports_without_triton():
    code = """
import sys
sys.modules["triton"] = None  # an import of it fails
from kafnets.ops.triton_engine import available
print(available("cuda"))
"""
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert run.stdout.strip() == "(False, 'Triton is not installed')"
