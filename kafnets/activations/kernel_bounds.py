"""Sound bounds on the slope and the curvature of sums over kernels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kafnets.activations.derivative_bounds import SLACK
from kafnets.activations.kernels import Kernel, KernelShape

CELLS = 1 << 11  # of the first attempt
MOST_CELLS = 1 << 17
FARTHEST = 1e4  # largest distance at which tails are evaluated, in widths of the dictionary
PIECE = 1 << 13  # cells computed at once
CLOSE = 1.005  # accepted ratio of a bound to the largest value found
ROUNDING = 1e-13  # error of float64 sums, relative to the sum of absolute values


@dataclass(frozen=True)
class Part:
    """``sum_i alpha[g, i] k(x - d_gi)`` for every parameter set g.

    Attributes:
        kernel: ``k``.
        alpha: ``(G, D)``.
        dictionary: ``(D,)`` or ``(G, D)``, in units of x.
        bandwidth: ``()`` or ``(G,)``, in 1 / (units of x)^2.
    """

    kernel: Kernel
    alpha: Tensor
    dictionary: Tensor
    bandwidth: Tensor

    def sets(self) -> list["Part"]:
        """One part for all sets if they share dictionary and bandwidth, otherwise one per set."""
        part = replace(self, **{n: getattr(self, n).detach().double().cpu() for n in ("alpha", "dictionary")})
        if self.dictionary.dim() == 1 and self.bandwidth.dim() == 0:
            return [part]
        gammas = self.bandwidth.detach().expand(len(part.alpha))
        points = part.dictionary.expand(part.alpha.shape)
        return [Part(self.kernel, a[None], d, gamma) for a, d, gamma in zip(part.alpha, points, gammas, strict=True)]


class KernelSums:
    """The :class:`~kafnets.activations.derivative_bounds.Bounds` of ``f_c(x) = offset x + sum of the parts``.

    With m the middle of a cell of width 2 h in which no kernel breaks, Taylor's theorem gives for ``g = f'`` or ``f''``

        ``|g(x)| <= |g(m)| + h |g'(m)| + h^2 / 2 sum_i |alpha_i| sup |k'''|``      (``k''''`` for ``g = f''``),

    and cells are divided until this bound is close to the largest ``|g(m)|``. Beyond some distance R from the
    dictionary, ``|g| <= sum_i |alpha_i| |k'(R)|``, since kernels fall there. Of periodic kernels, one period is enough.

    Args:
        parts: the parts, all with the same number of sets.
        channels: number of neighbouring channels that share a set.
        offset: a constant added to ``f'``.
    """

    def __init__(self, parts: Sequence[Part], channels: int = 1, offset: float = 0.0) -> None:
        self.parts, self.channels, self.offset = parts, channels, offset

    def slope(self, low: float, high: float) -> Tensor:
        """At least ``sup |f_c'|`` over ``[low, high]``, ``(C,)``."""
        return self._each_set(1, low, high, self.offset)

    def curvature(self, low: float, high: float) -> Tensor:
        """At least ``sup |f_c''|`` over ``(low, high)``, ``(C,)``; infinite if a term has a kink there."""
        return self._each_set(2, low, high, 0.0)

    def _each_set(self, order: int, low: float, high: float, offset: float) -> Tensor:
        sets = zip(*(part.sets() for part in self.parts), strict=True)
        with torch.inference_mode(False):
            found = [_supremum(parts, order, low, high, offset) for parts in sets]
        return torch.cat(found).repeat_interleave(self.channels)


@dataclass(frozen=True)
class _Known:
    """A part with one dictionary and one bandwidth, and its kernel's shape."""

    part: Part
    shape: KernelShape

    def derivatives(self, t: Tensor, order: int) -> list[Tensor]:
        """``k`` and its derivatives up to an order, at t."""
        t = t.clone().requires_grad_()
        with torch.enable_grad():
            found = [self.part.kernel(t, self.part.bandwidth.double().cpu())]
            for _ in range(order):
                (slope,) = torch.autograd.grad(
                    found[-1].sum(), t, create_graph=True, allow_unused=True, materialize_grads=True
                )
                # the slope of a straight line has no graph, but the next derivative needs one
                found.append(slope if slope.requires_grad else slope + 0 * t)
        return [value.detach() for value in found]

    def weight(self) -> Tensor:
        """``sum_i |alpha_i|``, ``(G,)``."""
        return self.part.alpha.abs().sum(1)

    def rest(self, order: int) -> Tensor:
        """``sum_i |alpha_i| sup |d^(order + 2) k|``, ``(G,)``."""
        return self.weight() * (self.shape.third if order == 1 else self.shape.fourth)

    def tail(self, order: int, reach: float) -> Tensor:
        """An upper bound of the part's ``|g|`` at distances >= ``reach`` from all points, ``(G,)``."""
        return self.weight() * self.derivatives(torch.tensor([reach], dtype=torch.float64), order)[order].abs()

    def breaks(self) -> Tensor:
        """The points where a derivative of a term jumps, ``(B,)``."""
        offsets = [sign * distance for distance in self.shape.breaks for sign in (-1, 1)]
        return (self.part.dictionary[:, None] + torch.tensor(offsets, dtype=torch.float64)).flatten()


def _supremum(parts: Sequence[Part], order: int, low: float, high: float, offset: float) -> Tensor:
    """The bound for sets that share dictionaries and bandwidths, ``(G,)``."""
    if not all(float(part.bandwidth) > 0 for part in parts):
        return torch.full((len(parts[0].alpha),), math.inf, dtype=torch.float64)  # the kernel may grow without bound
    try:
        known = [_Known(part, part.kernel.shape(float(part.bandwidth))) for part in parts]
    except OverflowError:  # derivatives of a very narrow kernel exceed the range of floats
        return torch.full((len(parts[0].alpha),), math.inf, dtype=torch.float64)
    repeats = len({part.kernel.period for part in parts}) == 1 and parts[0].kernel.period < math.inf
    found = (_repeating if repeats else _near_and_far)(known, order, low, high, offset if order == 1 else 0.0)
    return torch.where(_kinks(known, low, high), math.inf, found) if order == 2 else found


def _repeating(known: list[_Known], order: int, low: float, high: float, offset: float) -> Tensor:
    """The bound for parts that have the same period."""
    period = known[0].part.kernel.period
    if high - low >= period:
        low, high = -period / 2, period / 2  # around 0, where float64 is finest
    return _cells(known, order, low, high, offset)


def _near_and_far(known: list[_Known], order: int, low: float, high: float, offset: float) -> Tensor:
    """A joint bound near the dictionary; far away, the tails plus a separate bound for each periodic part."""
    falling = [k for k in known if k.part.kernel.period == math.inf]
    lasting = torch.full((len(known[0].part.alpha),), abs(offset), dtype=torch.float64)
    for k in known:
        if k.part.kernel.period < math.inf:
            lasting += _repeating([k], order, -math.inf, math.inf, 0.0)
    points = torch.cat([k.part.dictionary for k in known])
    first, last = float(points.min()), float(points.max())
    reach = max([last - first, low - last, first - high, *(k.shape.falling for k in falling)])
    while True:
        start, end = max(low, first - reach), min(high, last + reach)
        near = _cells(known, order, start, end, offset) if start < end else torch.zeros_like(lasting)
        if (start, end) == (low, high):
            return near
        far = (lasting + sum(k.tail(order, reach) for k in falling)) * SLACK
        # go further out while the bound on the tails is above the one near the dictionary
        if not (far > torch.maximum(near, CLOSE * lasting)).any() or reach > FARTHEST * (last - first):
            return torch.maximum(near, far)
        reach *= 2


def _cells(known: list[_Known], order: int, low: float, high: float, offset: float) -> Tensor:
    """The bound over a finite interval, ``(G,)``, with cells small enough for a close bound."""
    breaks = torch.cat([k.breaks() for k in known])
    breaks = breaks[(breaks > low) & (breaks < high)]
    rest = torch.stack([k.rest(order) for k in known]).sum(0)
    count = CELLS
    while True:
        edges = torch.cat([torch.linspace(low, high, count + 1, dtype=torch.float64), breaks]).sort().values
        bound, reached = _over(edges, known, order, rest, offset)
        if count >= MOST_CELLS or not (bound > CLOSE * reached).any():
            return bound * SLACK
        count *= 4


def _over(edges: Tensor, known: list[_Known], order: int, rest: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """The bound over given cells, and the largest ``|g|`` at their midpoints, each ``(G,)``."""
    bounds, reached = [], []
    for left, right in _pieces(edges):
        middles, half = ((left + right) / 2)[:, None], ((right - left) / 2)[:, None]
        value, slope, rounding = torch.tensor(offset, dtype=torch.float64), torch.tensor(0.0), torch.tensor(0.0)
        for k in known:
            *_, kernel, steepness = k.derivatives(middles - k.part.dictionary, order + 1)
            value = value + kernel @ k.part.alpha.T
            slope = slope + steepness @ k.part.alpha.T
            rounding = rounding + ROUNDING * (kernel.abs() @ k.part.alpha.abs().T)
        reached.append(value.abs().amax(0))
        bounds.append((value.abs() + half * slope.abs() + half**2 / 2 * rest + rounding).amax(0))
    return torch.stack(bounds).amax(0), torch.stack(reached).amax(0)


def _pieces(edges: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(edges[:-1].split(PIECE), edges[1:].split(PIECE), strict=True)


def _kinks(known: list[_Known], low: float, high: float) -> Tensor:
    """Whether a term with a non-zero coefficient has a kink inside the interval, ``(G,)``."""
    found = torch.zeros(len(known[0].part.alpha), dtype=torch.bool)
    for k in known:
        if k.shape.kinks:
            places = k.breaks().view(len(k.part.dictionary), -1)
            inside = ((places > low) & (places < high)).any(1)
            found |= ((k.part.alpha != 0) & inside).any(1)
    return found
