"""The activations' maths for training: the values of :mod:`kafnets.functional` with little memory, differentiable."""

from kafnets.ops.dispatch import engine, force
from kafnets.ops.grid import Grid
from kafnets.ops.kaf import kaf
from kafnets.ops.kwta import kwta
from kafnets.ops.terms import terms

__all__ = ["Grid", "engine", "force", "kaf", "kwta", "terms"]
