"""Chooses the engine that computes the activations on a device; ``docs/engines.md`` has a table of the engines.

A CPU uses native and CUDA uses triton; if that is unavailable, and on all other devices, it is eager. The choice is
made and logged once per process. To force an engine, set ``KAFNETS_ENGINE`` in the environment or use :func:`force`.
Whatever is forced, the reference computes wherever :func:`is_looked_into` is true.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.autograd import forward_ad

from kafnets.ops import triton_engine
from kafnets.ops.eager import EagerSweep
from kafnets.ops.engine import Engine
from kafnets.ops.native import KWTA_SOURCE, BuildError, NativeSweep, load
from kafnets.ops.uniform_recurrence import Grid

SETTING = "KAFNETS_ENGINE"
ENGINES = ("native", "triton", "eager", "reference")
RECORDERS = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY)
_log = logging.getLogger("kafnets")
_forced: list[str] = []


def engine_for(device: torch.device) -> str:
    """The name of the engine for a device.

    Raises:
        ValueError: if the forced name is unknown, or its engine does not work on the device.

    Example:
        >>> with force("eager"):
        ...     engine_for(torch.device("cpu"))
        'eager'
    """
    if is_looked_into():
        return "reference"
    name = _forced_name()
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


def must_be_plain() -> bool:
    """Whether a call must consist of PyTorch's own operations: :func:`is_looked_into`, or the reference is forced.

    In ``torch.compile`` a forced reference computes within an operator instead.
    """
    return is_looked_into() or (not torch.compiler.is_compiling() and _forced_name() == "reference")


def is_looked_into() -> bool:
    """Whether PyTorch follows the current call operation by operation, which it cannot do inside an engine.

    It does so in the transforms of ``torch.func`` (vmap, grad, jvp, ...) and in forward-mode differentiation, while
    ``torch.export``, ``torch.onnx.export``, ``torch.jit.trace`` or ``make_fx`` record a network, and in a
    ``FakeTensorMode``.

    Example:
        >>> is_looked_into(), torch.func.vmap(lambda x: x * is_looked_into())(torch.ones(1)).item()
        (False, 1.0)
    """
    if torch._C._are_functorch_transforms_active():  # as torch.autograd.Function asks before it refuses
        return True
    if torch.compiler.is_compiling():
        # not torch.compiler.is_exporting(), which torch.compile of PyTorch 2.11 takes for true
        return torch.compiler._is_exporting_flag
    if torch.jit.is_tracing() or forward_ad._current_level >= 0:
        return True
    return torch._C._len_torch_dispatch_stack() > 0 and any(map(torch._C._get_dispatch_mode, RECORDERS))


def _forced_name() -> str | None:
    return _forced[-1] if _forced else os.environ.get(SETTING)


@cache
def _best(device: str, index: int | None) -> str:
    if device not in ("cpu", "cuda"):
        return "eager"
    name = "native" if device == "cpu" else "triton"
    if reason := _missing(name, device, index):
        warnings.warn(f"activations on {device}: not the engine {name!r}, because {reason}", stacklevel=2)
        return "eager"
    _log.info("activations on %s: engine %s", device, name + _details(name))
    return name


@cache
def _missing(name: str, device: str, index: int | None) -> str:
    """Why an engine does not work on a device; empty if it does."""
    if name == "native":
        return _no_native() if device == "cpu" else "it is for CPUs"
    if name == "triton":
        works, reason = triton_engine.available(torch.device(device) if index is None else torch.device(device, index))
        return "" if works else reason
    return ""


def _no_native() -> str:
    try:
        load(KWTA_SOURCE)
        return "" if _agrees(NativeSweep) else "its values are wrong: the compiler may be faulty, set CXX to another"
    except BuildError as error:
        return str(error)


def _agrees(engine: type[Engine]) -> bool:
    """Whether an engine has the values of the eager one: compilers make mistakes."""
    with torch.device("cpu"):
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


def _details(name: str) -> str:
    return f" ({NativeSweep.describe()})" if name == "native" else ""
