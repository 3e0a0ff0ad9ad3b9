"""The activations' maths in C++, compiled on the machine that runs it."""

from kafnets.ops.native.build import BuildError, load
from kafnets.ops.native.kaf import NativeSweep

__all__ = ["BuildError", "NativeSweep", "load"]
