"""Sums over Gaussians by native/kaf.cpp."""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kafnets.ops.engine import Engine, Found, Wanted, arithmetic_dtype
from kafnets.ops.native.build import BuildError, load
from kafnets.ops.native.call import STORAGE, Sweep, pointer
from kafnets.ops.tiling import empty_dense
from kafnets.ops.uniform_recurrence import plan_recurrence

# What is built in: by the powers of the weights, how many powers of the moments are computed for how many wanted.
MOMENTS = {1: {0: 0, 1: 1, 2: 3, 3: 3}, 2: {0: 0, 1: 2, 2: 2}}


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
        call = Sweep.over(x, size)
        call.powers, call.moment_powers = weight_powers, computed
        # the memory that the pointers point to has to live until the call is over
        kept = [call.lay_out(x, a, v), value, slope, moments, self._small(call, weights, dtype)]
        call.value, call.slope = pointer(value), pointer(slope)
        call.moments = pointer(moments)
        if x.numel() and library(self.march).kaf_sweep(ctypes.byref(call)):
            raise BuildError("native/kaf.cpp and native/kaf.py disagree on what is built in")
        del kept
        return value, slope, moments[:powers].to(dtype) if want[2] else None

    def _small(self, call: Sweep, weights: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
        """Weights, and grid or dictionary and bandwidth, in double precision."""
        kept = []
        if weights is not None:
            kept.append(weights.double().contiguous())
            call.weights = pointer(kept[-1])
        plan = None if self.grid is None else plan_recurrence(self.grid, dtype)
        if self.grid is not None and plan is not None:
            call.first, call.step, call.gamma = self.grid.first, self.grid.step, self.grid.bandwidth
            call.half, call.clamp = plan.half, plan.clamp
        else:
            kept += call.free_points(self.dictionary, self.bandwidth)
        return kept


def _rounded(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if t is None else t.to(dtype)
