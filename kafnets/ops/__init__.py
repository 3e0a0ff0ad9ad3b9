"""The activations' maths for training: the values of :mod:`kafnets.functional` with little memory, differentiable."""

from kafnets.ops.grid import Grid
from kafnets.ops.kaf import kaf
from kafnets.ops.kwta import kwta

__all__ = ["Grid", "kaf", "kwta"]
