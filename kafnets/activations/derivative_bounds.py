"""Bounds on the slope and the curvature of a function of one value that are never below the truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor

Interval = tuple[float, float]
EVERYWHERE: Interval = (-math.inf, math.inf)

SLACK = 1 + 1e-6  # far above the rounding errors of float64, too small to matter to a reader


def check_interval(interval: Interval) -> Interval:
    """Return ``(low, high)`` as floats, or say what is wrong.

    Raises:
        ValueError: if ``interval`` is not two numbers with low < high; either may be infinite.
    """
    ends = tuple(interval) if isinstance(interval, tuple | list) else ()
    if len(ends) != 2 or not all(isinstance(end, Real) for end in ends) or not ends[0] < ends[1]:
        raise ValueError(f"interval must be two numbers (low, high) with low < high, got {interval!r}")
    return float(ends[0]), float(ends[1])


def certain(bound: Tensor) -> Tensor:
    """Replace NaN by infinity: a bound that could not be computed bounds nothing."""
    return bound.nan_to_num(nan=math.inf, posinf=math.inf)


class Bounds(Protocol):
    """Bounds on the derivatives of ``f_c``, one per channel: float64 on the CPU, never below the truth, or NaN."""

    def slope(self, low: float, high: float) -> Tensor:
        """At least ``sup |f_c'|`` over ``[low, high]``, ``(C,)``; infinite where ``f_c`` jumps."""

    def curvature(self, low: float, high: float) -> Tensor:
        """At least ``sup |f_c''|`` over ``(low, high)``, ``(C,)``; infinite where ``f_c'`` jumps."""


class PiecewiseLinear:
    """The exact bounds of continuous functions made of straight pieces.

    Args:
        knots: ``(C, K)``, each row in increasing order: where the pieces meet.
        slopes: ``(C, K + 1)``, ``slopes[c, k]`` between ``knots[c, k - 1]`` and ``knots[c, k]``.

    Example:
        >>> leaky = PiecewiseLinear(torch.zeros(1, 1), torch.tensor([[0.1, 1.0]]))
        >>> leaky.slope(-5.0, 0.0), leaky.curvature(-1.0, 1.0), leaky.curvature(0.0, 1.0)
        (tensor([0.1000], dtype=torch.float64), tensor([inf], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """

    def __init__(self, knots: Tensor, slopes: Tensor) -> None:
        self.knots, self.slopes = (t.detach().double().cpu() for t in (knots, slopes))

    def slope(self, low: float, high: float) -> Tensor:
        """The steepest piece that shares more than a point with the interval."""
        edge = self.knots.new_full((len(self.knots), 1), math.inf)
        starts, ends = torch.cat([-edge, self.knots], 1), torch.cat([self.knots, edge], 1)
        outside = (ends <= low) | (starts >= high) | (starts == ends)
        steepest = self.slopes.abs().masked_fill(outside, 0).amax(1)
        return steepest.masked_fill(self.knots.isnan().any(1), math.nan)

    def curvature(self, low: float, high: float) -> Tensor:
        """Infinite if a bend lies inside the interval, 0 otherwise."""
        inside = ~((self.knots <= low) | (self.knots >= high))
        bent = (inside & (self.slopes[:, 1:] != self.slopes[:, :-1])).any(1)
        return torch.zeros(len(bent), dtype=torch.float64).masked_fill(bent, math.inf)


@dataclass(frozen=True)
class Turning:
    """The bounds of smooth functions whose turning points are known.

    Between two turning points a function is monotone, so its absolute value is largest at an end of the interval or at
    a turning point inside. A turning point known to n digits gives an extreme value to 2n digits.

    Attributes:
        first: f' as a function of points ``(C, M)``, float64, with its limits at infinity.
        second: f'' likewise.
        first_turns: ``(C, A)``, where f' turns (f'' changes its sign).
        second_turns: ``(C, B)``, where f'' turns.

    Example:
        >>> tanh = Turning(
        ...     first=lambda x: 1 - x.tanh() ** 2,
        ...     second=lambda x: -2 * x.tanh() * (1 - x.tanh() ** 2),
        ...     first_turns=torch.zeros(1, 1),
        ...     second_turns=torch.tensor([[-0.6584789, 0.6584789]]),
        ... )
        >>> tanh.slope(-9.0, 9.0), tanh.curvature(-9.0, 9.0)
        (tensor([1.0000], dtype=torch.float64), tensor([0.7698], dtype=torch.float64))
    """

    first: Callable[[Tensor], Tensor]
    second: Callable[[Tensor], Tensor]
    first_turns: Tensor
    second_turns: Tensor

    def slope(self, low: float, high: float) -> Tensor:
        """The largest ``|f'|`` at the ends and at the turning points between."""
        return self._largest(self.first, self.first_turns, low, high)

    def curvature(self, low: float, high: float) -> Tensor:
        """The largest ``|f''|`` at the ends and at the turning points between."""
        return self._largest(self.second, self.second_turns, low, high)

    @staticmethod
    def _largest(g: Callable[[Tensor], Tensor], turns: Tensor, low: float, high: float) -> Tensor:
        inside = turns.detach().double().cpu().clamp(low, high)
        ends = torch.tensor([low, high], dtype=torch.float64).expand(len(inside), 2)
        return g(torch.cat([ends, inside], 1)).abs().amax(1) * SLACK
