"""The maths of the activations in C++, compiled on the machine that runs it."""

from pathlib import Path

from kafnets.ops.native.build import BuildError, load
from kafnets.ops.native.kaf import NativeSweep

KWTA_SOURCE = Path(__file__).with_name("kwta.cpp")

__all__ = ["KWTA_SOURCE", "BuildError", "NativeSweep", "load"]
