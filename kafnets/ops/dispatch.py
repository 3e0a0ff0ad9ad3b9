"""Which engine computes the activations on which device: chosen once, said once, forced by one setting.

=========  =======================================================  ======================================
engine     is                                                       needs
=========  =======================================================  ======================================
native     C++ for the processor at hand                            a CPU; g++, clang++ or ``$CXX``
triton     Triton kernels                                           a CUDA device
compiled   PyTorch, compiled by ``torch.compile``                   what that needs: a C++ compiler, or CUDA
eager      PyTorch, in pieces that stay in the cache                nothing
=========  =======================================================  ======================================

The first that works on a device is taken: native, compiled, eager on a CPU; triton, compiled, eager on CUDA. To force
one, set ``KAFNETS_ENGINE`` in the environment, or use :func:`force`. All give the same values within the tolerances of
their tests, and state dicts do not know about them.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from kafnets.ops import triton_kaf
from kafnets.ops.eager import EagerSweep
from kafnets.ops.grid import Grid
from kafnets.ops.native import BuildError, NativeSweep, load
from kafnets.ops.sweep import Engine

SETTING = "KAFNETS_ENGINE"
ENGINES = ("native", "triton", "compiled", "eager")
_log = logging.getLogger("kafnets")
_forced: list[str] = []


def engine(device: torch.device) -> str:
    """The name of the engine for a device.

    Raises:
        ValueError: if a name is forced that is none, or whose engine does not work on the device.

    Example:
        >>> with force("eager"):
        ...     engine(torch.device("cpu"))
        'eager'
    """
    name = _forced[-1] if _forced else os.environ.get(SETTING)
    if not name:
        return _best(device.type, device.index)
    if name not in ENGINES:
        raise ValueError(f"{SETTING} must be one of {', '.join(ENGINES)}, got {name!r}; unset it to have one chosen")
    if reason := _missing(name, device.type, device.index):
        raise ValueError(f"the engine {name!r} is forced, but {reason}; unset {SETTING} to have one chosen")
    return name


@contextmanager
def force(name: str) -> Iterator[None]:
    """Use one engine for all devices within a ``with`` block, whatever the environment says."""
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


@cache
def _best(device: str, index: int | None) -> str:
    if device not in ("cpu", "cuda"):
        return "eager"
    for name in ("native" if device == "cpu" else "triton", "compiled"):
        reason = _missing(name, device, index)
        if not reason:
            _log.info("activations on %s: engine %s", device, name + _details(name))
            return name
        warnings.warn(f"activations on {device}: not the engine {name!r}, because {reason}", stacklevel=2)
    return "eager"


@cache
def _missing(name: str, device: str, index: int | None) -> str:
    """Why an engine does not work on a device; nothing if it does."""
    if name == "native":
        return _no_native() if device == "cpu" else "it is for CPUs"
    if name == "triton":
        works, reason = triton_kaf.available(torch.device(device) if index is None else torch.device(device, index))
        return "" if works else reason
    return _no_compiler(device) if name == "compiled" else ""


def _no_native() -> str:
    try:
        load("kwta")
        return "" if _agrees(NativeSweep) else "its values are wrong: is the compiler sound? CXX names another"
    except BuildError as error:
        return str(error)


def _agrees(engine: type[Engine]) -> bool:
    """Whether an engine has the eager one's values: what a compiler made is not trusted unseen."""
    points, x = torch.linspace(-3, 3, 8), torch.linspace(-5, 5, 40).view(2, 1, 20)
    bandwidth, weights = torch.tensor(0.9), torch.arange(-3.0, 5.0).view(1, 1, 8)
    for grid in (None, Grid.of(points, bandwidth)):
        found, expected = (
            form(points, bandwidth, grid).sweep(x, x.cos(), None, weights, 1, want=(True, True, True))
            for form in (engine, EagerSweep)
        )
        if not all(
            torch.allclose(f, e, atol=1e-4)
            for f, e in zip(found, expected, strict=True)
            if f is not None and e is not None
        ):
            return False
    return True


def _no_compiler(device: str) -> str:
    try:
        torch.compile(lambda x: x + 1, fullgraph=True)(torch.zeros(2, device=device))
    except Exception as error:  # a compiler that is missing, broken or unknown fails in a dozen ways
        return f"torch.compile does not work here ({str(error).strip().splitlines()[0]})"
    return ""


def _details(name: str) -> str:
    return f" ({NativeSweep.describe()})" if name == "native" else ""
