"""The library that is compiled from conv.cpp."""

import ctypes
from ctypes import c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kafnets.fused.native.plan import ChainPlan
from kafnets.fused.native.steps import Method, NativeStep, ValueShape
from kafnets.fused.native.weights import frequencies
from kafnets.ops.native.build import BuildError, load


@cache
def conv_library(march: str = "native") -> ctypes.CDLL:
    """The compiled library; on the first call it must agree with PyTorch on an example.

    Raises:
        BuildError: if it cannot be built or loaded, or its values are wrong.
    """
    found = load(Path(__file__).with_name("conv.cpp"), march)
    found.conv_same.argtypes = (c_void_p, c_void_p, c_int64)
    found.conv_weights.argtypes = (c_void_p, c_void_p, c_int64, c_int64, c_int32, c_int32, c_void_p)
    x, filters = torch.linspace(-1, 1, 16 * 30).cos().reshape(1, 16, 5, 6), torch.linspace(0, 9, 2304).sin() / 40
    filters, y = filters.reshape(16, 16, 3, 3), channels_last(torch.zeros(1, 16, 3, 3))
    same, shrink = (frequencies(filters, stride=stride, transposed=False, lib=found) for stride in (1, 2))
    steps = [
        NativeStep(target=1, source=0, method=Method.SAME, weights=same),
        NativeStep(target=2, source=1, method=Method.SHRINK, weights=shrink, before=1),
    ]
    plan = ChainPlan([ValueShape(16, 5, 6), ValueShape(16, 5, 6, held=False), ValueShape(16, 3, 3)], steps, found)
    expected = F.conv2d(F.conv2d(x, filters, padding=1), filters, stride=2, padding=1)
    if not plan.run([channels_last(x), y]) or not torch.allclose(y, expected, atol=1e-4):
        raise BuildError("its convolutions are wrong: the compiler may be faulty, set CXX to another")
    return found


def lanes() -> int:
    """Channels per vector of the processor."""
    return conv_library().conv_lanes()


def channels_last(x: Tensor) -> Tensor:
    """``x`` in the memory layout of a value."""
    return x.contiguous(memory_format=torch.channels_last)


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two dense tensors hold the same bits in order; on large ones in a quarter of ``torch.equal``'s time."""
    return a.nbytes == b.nbytes and bool(conv_library().conv_same(a.data_ptr(), b.data_ptr(), a.nbytes))
