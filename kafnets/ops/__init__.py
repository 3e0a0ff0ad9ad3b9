"""The maths of :mod:`kafnets.functional`, fast and with little memory, differentiable any number of times."""

from kafnets.ops.dispatch import engine_for, force
from kafnets.ops.kaf import kaf
from kafnets.ops.kernel_sum import terms
from kafnets.ops.kwta import kwta
from kafnets.ops.uniform_recurrence import Grid

__all__ = ["Grid", "engine_for", "force", "kaf", "kwta", "terms"]
