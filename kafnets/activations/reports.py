"""What is known for certain about a function of one value: bounds on its slope and curvature, moments, curves."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor, nn

Interval = tuple[float, float]
EVERYWHERE: Interval = (-math.inf, math.inf)

SLACK = 1 + 1e-6  # far above float64's rounding, far below what a bound's reader would notice
REACH = 10.0  # standard deviations that the quadrature covers; 1.5e-23 of the mass lies outside
CELLS = 20_000  # of the quadrature, 1/1000 of a standard deviation each
CHUNK = 1 << 22  # values evaluated at once


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
    """A bound that could not be computed is none: infinity instead of NaN."""
    return bound.nan_to_num(nan=math.inf, posinf=math.inf)


class Bounds(Protocol):
    """Bounds on the derivatives of ``f_c``, one per channel: float64 on the CPU, never below the truth; NaN: none."""

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

    Between two turning points a function is monotone, so that it is largest in size at an end of the interval or at a
    turning point inside. A turning point known to n digits gives an extreme value to 2n digits.

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


@dataclass(frozen=True)
class GaussianMoments:
    """What an activation does to a normal input ``Z ~ N(mean, std^2)``, each ``(C,)``, float64 on the CPU.

    Attributes:
        mean: ``E f(Z)``.
        variance: ``Var f(Z)``.
        squared_slope: ``E f'(Z)^2``.
    """

    mean: Tensor
    variance: Tensor
    squared_slope: Tensor

    @property
    def gradient_growth(self) -> Tensor:
        """``sqrt(E f'^2 / Var f)``, ``(C,)``: by what batch norm before this activation multiplies gradients' norms.

        Batch norm divides by the spread of what it is fed, so that a layer's backward gain is the slope's root mean
        square over the spread of f, whatever the scale of f. Above 1, gradients grow exponentially with depth. Yang
        et al., "A mean field theory of batch normalization", ICLR 2019. Measured in units of ``std = 1``.
        """
        return (self.squared_slope / self.variance).sqrt()


@dataclass(frozen=True)
class Curve:
    """The data of a plot, float64 on the CPU.

    Attributes:
        x: ``(M,)``, increasing.
        values: ``(C, M)``, ``f_c(x)``.
        slopes: ``(C, M)``, ``f_c'(x)``.
    """

    x: Tensor
    values: Tensor
    slopes: Tensor


def curve(layer: nn.Module, num_channels: int, x: Tensor) -> Curve:
    """Evaluate a pointwise layer and its slope at points ``(M,)``, in float64 on the CPU, in eval mode, on a copy."""
    # inside inference mode too, where nothing else may record a graph
    with torch.inference_mode(False), torch.enable_grad():
        twin = copy.deepcopy(layer).cpu().double().eval()
        pieces = [_with_slope(twin, num_channels, piece) for piece in x.split(max(1, CHUNK // num_channels))]
    values, slopes = (torch.cat(parts).T.contiguous() for parts in zip(*pieces, strict=True))
    return Curve(x, values, slopes)


def _with_slope(twin: nn.Module, num_channels: int, x: Tensor) -> tuple[Tensor, Tensor]:
    points = x.clone()[:, None].repeat(1, num_channels).requires_grad_()
    values = twin.forward(points)  # not twin(points): hooks of the network it came from stay out of this
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), slopes


def gaussian_moments(layer: nn.Module, num_channels: int, mean: float, std: float) -> GaussianMoments:
    """Integrate a pointwise layer against a normal density by the midpoint rule.

    20,000 cells over 10 standard deviations to either side: exact to 1e-7 for smooth functions and for a kink at the
    mean; a jump of f'^2 by J elsewhere costs at most 2e-4 J.
    """
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(f"mean must be finite and std > 0 and finite, got {mean!r} and {std!r}; the defaults are 0, 1")
    z = REACH * ((2 * torch.arange(CELLS, dtype=torch.float64) + 1) / CELLS - 1)
    weight = torch.softmax(-0.5 * z**2, 0)
    found = curve(layer, num_channels, mean + std * z)
    expected = found.values @ weight
    variance = (found.values - expected[:, None]) ** 2 @ weight
    return GaussianMoments(expected, variance, found.slopes**2 @ weight)
