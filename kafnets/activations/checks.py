"""Checks of settings, shared by activations: each returns the value, or raises an error with its range and default."""

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

# Within these, values and two orders of derivatives are finite in float32 (up to |x| = 1e9 at least).
LEAST, MOST = 1e-6, 1e6


def count(name: str, value: int, least: int, default: int) -> int:
    """Return an integer of at least ``least``.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}; the default is {default}")
    return value


def positive(name: str, value: float, default: float, *, least: float = LEAST, most: float = MOST) -> float:
    """Return a number above zero, from ``least`` to ``most``, as a float.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be > 0 and finite, got {value!r}; the default is {default:g}")
    return within(name, value, default, least, most)


def finite(name: str, value: float, default: float) -> float:
    """Return a number from -1e6 to 1e6 as a float.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}; the default is {default:g}")
    return within(name, value, default, -MOST, MOST)


def within(name: str, value: float, default: float, least: float, most: float) -> float:
    """Return a number from ``least`` to ``most`` as a float.

    Raises:
        ValueError: if it is not.
    """
    if not least <= value <= most:
        raise ValueError(
            f"{name} must be from {least:g} to {most:g}, got {value!r}: the arithmetic in float32 would overflow or "
            f"lose all digits; the default is {default:g}"
        )
    return float(value)


def sampled(target: Callable[[Tensor], Tensor], points: Tensor, *, name: str = "init") -> Tensor:
    """The values of an elementwise function at points, in the points' dtype.

    The points must not be on the meta device, even while a network is built there.

    Raises:
        TypeError: if ``target`` cannot be called.
        ValueError: if its values have another shape or are not finite.
    """
    if not callable(target):
        raise TypeError(f"{name} must be a function such as torch.nn.functional.elu, got {target!r}")
    with torch.no_grad():
        values = target(points)
    if not isinstance(values, Tensor) or values.shape != points.shape or not values.isfinite().all():
        raise ValueError(
            f"{name} must map a tensor elementwise to finite values, but {named(target)} does not on "
            f"[{points.min().item():g}, {points.max().item():g}]"
        )
    return values.to(points.dtype)


def new(values: Tensor) -> Tensor:
    """Move values to the default device, which may be meta, and the default dtype."""
    return values.to(torch.get_default_device(), torch.get_default_dtype())


def named(target: Callable[[Tensor], Tensor]) -> str:
    """The name of a function in a repr."""
    return getattr(target, "__name__", type(target).__name__)
