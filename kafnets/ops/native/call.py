"""The arguments of a C++ pass over an input; native/sweep.h mirrors them."""

import ctypes
import math
from ctypes import c_double, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from kafnets.ops.tiling import has_channels_last

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Sweep(ctypes.Structure):
    """One call. The tensors that its pointers point to have to live until it is over."""

    _fields_ = (
        *((name, c_int64) for name in ("channels", "outer", "inner")),
        *((name, c_int32) for name in ("lanes", "storage", "threads", "powers", "moment_powers")),
        *((name, c_void_p) for name in ("x", "a", "v", "value", "slope", "moments", "weights")),
        ("size", c_int64),
        *((name, c_double) for name in ("first", "step", "gamma", "clamp")),
        ("half", c_int32),
        *((name, c_void_p) for name in ("points", "bandwidths")),
        ("kernel", c_int32),
        ("setting", c_double),
    )

    @classmethod
    def over(cls, x: Tensor, size: int) -> "Sweep":
        """A call for an input and dictionaries of ``size`` points, with the current number of threads."""
        return cls(channels=x.shape[1], size=size, storage=STORAGE[x.dtype], threads=torch.get_num_threads())

    def lay_out(self, x: Tensor, a: Tensor | None, v: Tensor | None) -> list[Tensor | None]:
        """Bring x, a and v into one dense memory format; copies only those that have another one."""
        last = has_channels_last(x) or x.dim() == 2
        self.lanes, self.outer, self.inner = int(last), len(x), math.prod(x.shape[2:])
        dense = [None if t is None else _dense(t.to(x.dtype), last) for t in (x, a, v)]
        self.x, self.a, self.v = (pointer(t) for t in dense)
        return dense

    def free_points(self, dictionary: Tensor, bandwidth: Tensor) -> list[Tensor]:
        """Pass ``(D,)`` or ``(C, D)`` points and ``()`` or ``(C,)`` bandwidths in double precision."""
        points = dictionary.double().expand(self.channels, -1).contiguous()
        gammas = bandwidth.double().expand(self.channels).contiguous()
        self.points, self.bandwidths = pointer(points), pointer(gammas)
        return [points, gammas]


def pointer(t: Tensor | None) -> int | None:
    """The address of a tensor's memory."""
    return None if t is None else t.data_ptr()


def _dense(t: Tensor, channels_last: bool) -> Tensor:
    return t.movedim(1, -1).contiguous() if channels_last else t.contiguous()
