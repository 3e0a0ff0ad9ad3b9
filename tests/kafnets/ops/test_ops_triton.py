"""Triton's sweeps: on a GPU where there is one, otherwise in Triton's interpreter, in a process of its own."""

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kafnets import functional
from kafnets.ops import triton_kaf
from kafnets.ops.eager import EagerSweep
from kafnets.ops.grid import Grid
from kafnets.ops.triton_kaf import TritonSweep, available

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
ALL = (True, True, True)

on_device = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="no GPU; test_in_the_interpreter runs this one"
)
needs_compiler = pytest.mark.skipif(INTERPRETED or triton_kaf.triton is None, reason="Triton is not here to compile")


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


@pytest.fixture(params=["grid", "direct", "per channel"])
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
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
def test_shapes_and_layouts(shape, layout):
    torch.manual_seed(0)
    points, gamma, grid = dictionaries("grid", 2)
    x = torch.randn(shape, dtype=torch.float64)
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == "sliced":
        x = torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64)[..., ::2]
    elif layout == "transposed":
        x = torch.randn(shape[1], shape[0], *shape[2:], dtype=torch.float64).transpose(0, 1)
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
def test_float32_errs_by_millionths(even, size, target):
    torch.manual_seed(size)
    points, gamma, grid = dictionaries("grid" if even else "direct", size)
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
def test_many_programs_give_the_same_every_time(form, channels_last, monkeypatch):
    points, gamma, grid = dictionaries(form, 3)
    x, a = torch.randn(2, 150, 3, 4, dtype=torch.float64)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weights = torch.randn(1, 3, 3, dtype=torch.float64)
    monkeypatch.setattr(triton_kaf, "LEAST_STEPS", 1)
    assert triton_kaf._Tiles(x).chunks > 1
    many = sweep(x, a, None, weights, 1, points, gamma, grid)
    for m, e in zip(many, reference(x, a, None, weights, 1, points, gamma), strict=True):
        assert error(m, e) < 1e-12
    again = sweep(x, a, None, weights, 1, points, gamma, grid)
    assert all(torch.equal(m, s) for m, s in zip(many, again, strict=True))


@on_device
def test_offsets_of_64_bits(form, monkeypatch):
    monkeypatch.setattr(triton_kaf, "WIDE_FROM", 0)
    points, gamma, grid = dictionaries(form)
    weights = torch.randn(1, 3, 3, dtype=torch.float64)
    for x in (torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)):
        found = sweep(x, None, None, weights, 1, points, gamma, grid)
        for f, e in zip(found, reference(x, None, None, weights, 1, points, gamma), strict=True):
            assert error(f, e) < 1e-12


@on_device
def test_moments_of_a_long_free_dictionary_are_found_in_parts():
    points, gamma, _ = dictionaries("direct", 22)
    assert triton_kaf.MOST_SUMS < 22 * 3
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
    with torch.cuda.graph(graph):  # refuses whatever waits
        found = engine.sweep(x, None, None, weights, 1, want=ALL)
    graph.replay()
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
LAYOUTS = {
    "rows": {"LANES": 0, "ACROSS": 128, "VECTOR": 4, "STEP": 128},
    "channels_last": {"LANES": 32, "ACROSS": 4, "VECTOR": 4, "STEP": 16},
}
FORWARD = {"POWERS": 1, "MOMENTS": 0, "HAS_A": False, "HAS_V": False, "VALUE": True, "SLOPE": False, "WIDE": False}
BACKWARD = FORWARD | {"MOMENTS": 1, "HAS_A": True, "VALUE": False, "SLOPE": True}


def compiled(kernel, settings, storage):
    """The kernel for an H100 or H200, compiled without one: its PTX, and the registers and local memory it uses."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [p.name for p in kernel.params if not p.is_constexpr]
    stored, sizes = {"x", "a", "v", "value", "slope"}, set(triton_kaf._sizes)
    types = {n: "i32" if n in sizes else TYPES[storage] if n in stored else "*fp32" for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in sizes}
    source = ASTSource(kernel, types | dict.fromkeys(settings, "constexpr"), constexprs=settings, attrs=aligned)
    options = {"num_warps": triton_kaf.WARPS, "enable_fp_fusion": True}
    result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    return result.asm["ptx"], result.asm["cubin"], tool


@needs_compiler
@pytest.mark.parametrize(
    ("layout", "storage"), [("rows", torch.float32), ("rows", torch.bfloat16), ("channels_last", torch.float32)]
)
def test_compiles_for_hopper_within_registers(layout, storage, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    settings = BACKWARD | LAYOUTS[layout] | {"SIZE": 20, "HALF": 10}
    ptx, cubin, tool = compiled(triton_kaf._grid_sweep, settings, storage)
    (tmp_path / "cubin").write_bytes(cubin)
    usage = subprocess.run([tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True)
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage.stdout + usage.stderr).groups()
    assert int(registers) <= 128 and stack == local == "0"
    assert not re.search(r"\b(atom|red)\.", ptx)
    if layout == "rows":
        assert f"ld.global.v{4 if storage == torch.float32 else 2}.b32" in ptx
    # threads exchange their sums at the end only
    loop = re.search(r"^(\$L__BB\w+):(?:(?!^\$L__BB).)*?bra\s+\1;", ptx, re.M | re.S)
    assert loop and "ex2" in loop[0] and "shfl" not in loop[0] and "bar.sync" not in loop[0]


@needs_compiler
def test_compiles_direct_exponentials(tmp_path, monkeypatch):
    import triton.language as tl

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    points = {"SIZE": 20, "POINTS": 20, "WIDTH": 20, "dtype": tl.float32}
    ptx, _, _ = compiled(triton_kaf._direct_sweep, FORWARD | LAYOUTS["rows"] | points, torch.float32)
    assert ptx.count("ex2.approx") == 20 * 4


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or triton_kaf.triton is None, reason="Triton is not here to be interpreted")
def test_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "not compiles",
        str(Path(__file__)),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr
    if run.returncode == 0 and "passed" not in last:
        pytest.skip(f"the interpreter does not run here: {last}")
    assert run.returncode == 0, run.stdout[-4000:]


def test_says_why_it_is_not_available():
    assert available("meta") == (False, "Triton needs a CUDA device, got meta")


def test_imports_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("without_triton", triton_kaf.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    assert copy.available("cuda") == (False, "Triton is not installed")
