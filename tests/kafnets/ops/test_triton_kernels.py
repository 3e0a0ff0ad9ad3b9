"""Triton's kernels compile for an H100 or H200 on a machine without a GPU."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from kafnets.ops import triton_kernels, triton_launch

needs_compiler = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1" or triton_kernels.triton is None, reason="Triton is not installed"
)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
LAYOUTS = {
    "rows": {"LANES": 0, "ACROSS": 128, "VECTOR": 4, "STEP": 128},
    "channels_last": {"LANES": 32, "ACROSS": 4, "VECTOR": 4, "STEP": 16},
}
FORWARD = {"POWERS": 1, "MOMENTS": 0, "HAS_A": False, "HAS_V": False, "VALUE": True, "SLOPE": False, "WIDE": False}
BACKWARD = FORWARD | {"MOMENTS": 1, "HAS_A": True, "VALUE": False, "SLOPE": True}


def compiled(kernel, settings, storage):
    """Compiles a kernel for an H100 or H200: its PTX, its cubin and the tool that reads the cubin."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [p.name for p in kernel.params if not p.is_constexpr]
    stored, sizes = {"x", "a", "v", "value", "slope"}, set(triton_kernels.SIZES)
    types = {n: "i32" if n in sizes else TYPES[storage] if n in stored else "*fp32" for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in sizes}
    source = ASTSource(kernel, types | dict.fromkeys(settings, "constexpr"), constexprs=settings, attrs=aligned)
    options = {"num_warps": triton_launch.WARPS, "enable_fp_fusion": True}
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
    ptx, cubin, tool = compiled(triton_kernels.recurrence_sweep, settings, storage)
    (tmp_path / "cubin").write_bytes(cubin)
    usage = subprocess.run([tool, "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True)
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage.stdout + usage.stderr).groups()
    assert int(registers) <= 128 and stack == local == "0"
    assert not re.search(r"\b(atom|red)\.", ptx)
    if layout == "rows":
        assert f"ld.global.v{4 if storage == torch.float32 else 2}.b32" in ptx
    # threads exchange their sums only at the end
    loop = re.search(r"^(\$L__BB\w+):(?:(?!^\$L__BB).)*?bra\s+\1;", ptx, re.M | re.S)
    assert loop and "ex2" in loop[0] and "shfl" not in loop[0] and "bar.sync" not in loop[0]


@needs_compiler
def test_compiles_exponentials(tmp_path, monkeypatch):
    import triton.language as tl

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    points = {"SIZE": 20, "POINTS": 20, "WIDTH": 20, "dtype": tl.float32}
    ptx, _, _ = compiled(triton_kernels.exponential_sweep, FORWARD | LAYOUTS["rows"] | points, torch.float32)
    assert ptx.count("ex2.approx") == 20 * 4
