"""Rigorous bounds on the derivatives of ``P / (1 + |Q|)``."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import torch
from torch import Tensor

from kafnets.activations.derivative_bounds import SLACK

EDGES = [0.0, *(2.0**k for k in range(-3, 21))]  # of the stretches on each side of 0
CELLS = 1 << 12  # per stretch
ROUNDING = 1e-12  # error of a polynomial in [-1, 1], relative to the sum of its absolute coefficients

Polynomial = list[float]  # coefficients, from the lowest power up


class RationalBounds:
    """Bounds for ``f = P / (1 + |Q|)`` with P of degree 5 and ``Q(0) = 0`` of degree 4.

    Where Q has the sign s, ``D = 1 + s Q`` and ``f' = N / D^2``, ``f'' = M / D^3`` with ``N = P' D - P D'`` and
    ``M = N' D - 2 N D'``. The line is cut at 0 and at powers of two; beyond the last, in ``w = 1 / x``, both are
    fractions of the reversed polynomials. On each of many small cells, a polynomial differs from its value at the
    midpoint by at most the sum of the sizes of its Taylor terms, and ``D >= 1``.

    Args:
        numerator: ``a_0 .. a_5``.
        denominator: ``b_1 .. b_4``.
        num_channels: how many channels share the function.

    Example:
        >>> cubic_saturation = RationalBounds([0.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], 1)
        >>> cubic_saturation.slope(-2.0, 2.0)  # x / (1 + x^2)
        tensor([1.0000], dtype=torch.float64)
    """

    def __init__(self, numerator: Polynomial, denominator: Polynomial, num_channels: int) -> None:
        self.above, self.below, self.num_channels = numerator, [0.0, *denominator], num_channels

    def slope(self, low: float, high: float) -> Tensor:
        """The largest bound of all cells; infinite if f grows faster than a straight line."""
        return self._spread(self._slope_on(stretch) for stretch in _stretches(low, high))

    def curvature(self, low: float, high: float) -> Tensor:
        """The largest bound of all cells; infinite if Q changes its sign inside the interval."""
        bent_at_zero = low < 0 < high and self.below[1] != 0 and self.above[0] != 0
        return self._spread([math.inf] if bent_at_zero else (self._curvature_on(s) for s in _stretches(low, high)))

    def _spread(self, bounds: Iterable[float]) -> Tensor:
        # not Python's max, which may drop a NaN
        return (torch.tensor(list(bounds), dtype=torch.float64).amax() * SLACK).repeat(self.num_channels)

    def _slope_on(self, stretch: "Stretch") -> float:
        bounds = [
            stretch.fraction(self._slope_above(sign), self._below(sign), 2).where(possible, 0.0)
            for sign, possible in zip((1.0, -1.0), stretch.signs(self.below), strict=True)
        ]
        return torch.stack(bounds).max().item()

    def _curvature_on(self, stretch: "Stretch") -> float:
        positive, negative = stretch.signs(self.below)
        bounds = []
        for sign, possible in ((1.0, positive), (-1.0, negative)):
            first, below = self._slope_above(sign), self._below(sign)
            second = _plus(_times(_derivative(first), below), _times(first, _derivative(below)), -2.0)
            bounds.append(stretch.fraction(second, below, 3).where(possible, 0.0))
        return torch.stack(bounds).amax(0).masked_fill(positive & negative, math.inf).max().item()

    def _below(self, sign: float) -> Polynomial:
        return _plus([1.0], self.below, sign)

    def _slope_above(self, sign: float) -> Polynomial:
        below = self._below(sign)
        return _plus(_times(_derivative(self.above), below), _times(self.above, _derivative(below)), -1.0)


@dataclass(frozen=True)
class Stretch:
    """Cells of the real line on one side of 0, in a coordinate t of size at most 1.

    Attributes:
        middles: midpoints of the cells in t, float64.
        half: half a cell's width.
        scale: the unit of t: ``x = scale t``, or ``1 / x = scale t``.
        inverted: whether the latter holds.
    """

    middles: Tensor
    half: float
    scale: float
    inverted: bool

    def signs(self, q: Polynomial) -> tuple[Tensor, Tensor]:
        """For each cell whether Q may be positive in it, and whether it may be negative."""
        coefficients = self._in_coordinate(q, 4)
        zeros = next((k for k, c in enumerate(coefficients) if c != 0), 0)
        # Q = t^zeros R with R(0) != 0, whose sign is certain next to 0
        value, radius = self._range(coefficients[zeros:])
        positive, negative = ~(value + radius < 0), ~(value - radius > 0)
        if not any(coefficients):
            return positive, torch.zeros_like(negative)
        flipped = zeros % 2 == 1 and self.middles[0] < 0
        return (negative, positive) if flipped else (positive, negative)

    def fraction(self, above: Polynomial, below: Polynomial, power: int) -> Tensor:
        """Upper bounds of ``|above| / below^power`` for each cell, where ``below >= 1`` is of degree 4."""
        value, radius = self._range(self._in_coordinate(above, 4 * power))
        centre, spread = self._range(self._in_coordinate(below, 4))
        nearest = self.scale * (self.middles.abs() - self.half).clamp_min(0)
        least = torch.maximum(centre - spread, nearest**4 if self.inverted else torch.ones_like(nearest))
        size = value.abs() + radius
        return torch.where(size == 0, 0.0, size / least**power)

    def _in_coordinate(self, polynomial: Polynomial, degree: int) -> Polynomial:
        """The polynomial in t: ``p(scale t)``, or ``w^degree p(1 / w)`` with ``w = scale t``."""
        padded = polynomial + [0.0] * (degree + 1 - len(polynomial))
        return [c * self.scale**k for k, c in enumerate(padded[::-1] if self.inverted else padded)]

    def _range(self, polynomial: Polynomial) -> tuple[Tensor, Tensor]:
        """The value at each midpoint, and the largest possible distance from it within the cell."""
        taylor = [torch.full_like(self.middles, c) for c in polynomial]
        for first in range(len(taylor) - 1):
            for k in range(len(taylor) - 2, first - 1, -1):
                taylor[k] = taylor[k] + self.middles * taylor[k + 1]
        radius = torch.full_like(self.middles, ROUNDING * sum(abs(c) for c in polynomial))
        for k, coefficient in enumerate(taylor[1:], 1):
            radius += coefficient.abs() * self.half**k
        return taylor[0], radius


def _stretches(low: float, high: float) -> list[Stretch]:
    """The interval cut at 0 and at powers of two, so that cells are small for the size of x."""
    found = []
    for start, end in [*pairwise(EDGES), *((-b, -a) for a, b in pairwise(EDGES))]:
        scale = max(abs(start), abs(end))
        found.append((max(start, low) / scale, min(end, high) / scale, scale, False))
    last = EDGES[-1]
    if high > last:
        found.append((last / high, last / max(low, last), 1 / last, True))
    if low < -last:
        found.append((last / min(high, -last), last / low, 1 / last, True))
    return [_cells(*ends_and_units) for ends_and_units in found if ends_and_units[0] < ends_and_units[1]]


def _cells(start: float, end: float, scale: float, inverted: bool) -> Stretch:
    half = (end - start) / (2 * CELLS)
    middles = start + half * (2 * torch.arange(CELLS, dtype=torch.float64) + 1)
    return Stretch(middles, half * SLACK, scale, inverted)


def _times(p: Polynomial, q: Polynomial) -> Polynomial:
    product = [0.0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            product[i + j] += a * b
    return product


def _plus(p: Polynomial, q: Polynomial, factor: float) -> Polynomial:
    return [a + factor * b for a, b in zip_longest(p, q, fillvalue=0.0)]


def _derivative(p: Polynomial) -> Polynomial:
    return [k * c for k, c in enumerate(p)][1:]
