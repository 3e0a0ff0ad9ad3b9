"""Sums over Gaussians by native/kaf.cpp."""

import ctypes
import math
from ctypes import c_double, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kafnets.ops.engine import Engine, Found, Wanted, arithmetic_dtype
from kafnets.ops.native.build import BuildError, load
from kafnets.ops.tiling import empty_dense, has_channels_last
from kafnets.ops.uniform_recurrence import plan_recurrence

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# What is built in: by the powers of the weights, how many powers of the moments are computed for how many wanted.
MOMENTS = {1: {0: 0, 1: 1, 2: 3, 3: 3}, 2: {0: 0, 1: 2, 2: 2}}


class _Sweep(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("channels", "outer", "inner")),
        *((name, c_int32) for name in ("lanes", "storage", "threads", "powers", "moment_powers")),
        *((name, c_void_p) for name in ("x", "a", "v", "value", "slope", "moments", "weights")),
        ("size", c_int64),
        *((name, c_double) for name in ("first", "step", "gamma", "clamp")),
        ("half", c_int32),
        *((name, c_void_p) for name in ("points", "bandwidths")),
    )


@cache
def library(march: str = "native") -> ctypes.CDLL:
    """The compiled library.

    Raises:
        BuildError: if it cannot be built or loaded.
    """
    found = load(Path(__file__).with_name("kaf.cpp"), march)
    found.kaf_instructions.restype = ctypes.c_char_p
    return found


class NativeSweep(Engine):
    """C++: a recurrence on a grid, exponentials otherwise. CPU only."""

    march = "native"

    @classmethod
    def describe(cls) -> str:
        """The processor instructions in use."""
        return library(cls.march).kaf_instructions().decode()

    @staticmethod
    def can(dtype: torch.dtype, weight_powers: int, moment_powers: int) -> bool:
        """Whether this sweep is built in."""
        return dtype in STORAGE and moment_powers in MOMENTS.get(weight_powers or 1, {})

    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """One pass; see :meth:`kafnets.ops.engine.Engine.sweep`."""
        dtype = arithmetic_dtype(x, self.dictionary)
        if dtype != arithmetic_dtype(x):  # float32 data under a float64 dictionary
            a, v = (None if t is None else t.to(dtype) for t in (a, v))
            value, slope, moments = self.sweep(x.to(dtype), a, v, weights, powers, want=want)
            return _rounded(value, x.dtype), _rounded(slope, x.dtype), moments
        channels, size = x.shape[1], self.dictionary.shape[-1]
        value, slope = (empty_dense(x, x.dtype) if wanted else None for wanted in want[:2])
        weight_powers = 1 if weights is None else weights.shape[0]
        computed = MOMENTS[weight_powers][powers if want[2] else 0]
        moments = torch.zeros(max(computed, 1), channels, size, dtype=torch.float64, device=x.device)
        call = _Sweep(channels=channels, size=size, storage=STORAGE[x.dtype], threads=torch.get_num_threads())
        call.powers, call.moment_powers = weight_powers, computed
        # the memory that the pointers point to has to live until the call is over
        kept = [self._lay_out(call, x, a, v), value, slope, moments, self._small(call, weights, dtype, channels)]
        call.value, call.slope = _pointer(value), _pointer(slope)
        call.moments = _pointer(moments)
        if x.numel() and library(self.march).kaf_sweep(ctypes.byref(call)):
            raise BuildError("native/kaf.cpp and native/kaf.py disagree on what is built in")
        del kept
        return value, slope, moments[:powers].to(dtype) if want[2] else None

    @staticmethod
    def _lay_out(call: _Sweep, *tensors: Tensor | None) -> list[Tensor | None]:
        """Bring x, a and v into one dense memory format; copies only those that have another one."""
        x = tensors[0]
        assert x is not None
        last = has_channels_last(x) or x.dim() == 2
        call.lanes, call.outer, call.inner = int(last), len(x), math.prod(x.shape[2:])
        dense = [None if t is None else _dense(t.to(x.dtype), last) for t in tensors]
        call.x, call.a, call.v = (_pointer(t) for t in dense)
        return dense

    def _small(self, call: _Sweep, weights: Tensor | None, dtype: torch.dtype, channels: int) -> list[Tensor]:
        """Weights, and grid or dictionary and bandwidth, in double precision."""
        kept = []
        if weights is not None:
            kept.append(weights.double().contiguous())
            call.weights = _pointer(kept[-1])
        plan = None if self.grid is None else plan_recurrence(self.grid, dtype)
        if self.grid is not None and plan is not None:
            call.first, call.step, call.gamma = self.grid.first, self.grid.step, self.grid.bandwidth
            call.half, call.clamp = plan.half, plan.clamp
        else:
            kept.append(self.dictionary.double().expand(channels, -1).contiguous())
            kept.append(self.bandwidth.double().expand(channels).contiguous())
            call.points, call.bandwidths = _pointer(kept[-2]), _pointer(kept[-1])
        return kept


def _dense(t: Tensor, channels_last: bool) -> Tensor:
    return t.movedim(1, -1).contiguous() if channels_last else t.contiguous()


def _rounded(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if t is None else t.to(dtype)


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()
