"""Straight lines below and above a layer that is not linear, on the intervals of its inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kafnets.activations import Activation, ReLU, ResidualKAF
from kafnets.activations.derivative_bounds import PiecewiseLinear
from kafnets.activations.pointwise import per_channel
from kafnets.certify.boxes import Box, passed
from kafnets.certify.extremes import Extremes

CELLS = 64  # of the grid on an interval
ROUNDING = 1e-10  # error of an activation and of a line in float64, relative to the largest value


@dataclass(frozen=True)
class Lines:
    """``low_slope x + low_offset <= f(x) <= high_slope x + high_offset`` on the intervals, each ``(N, ...)``."""

    low_slope: Tensor
    low_offset: Tensor
    high_slope: Tensor
    high_offset: Tensor


class Relaxation:
    """The lines of one activation, at its present parameters.

    ReLU has those of Zhang et al. 2018 (arXiv 1811.00866, section 3.3): the chord above, and below that of 0 and x
    which is closer. Other pointwise activations have two parallel lines. Of two slopes, that of the chord and that of a
    least-squares fit, the one with the closer lines is taken; the offsets are the extremes of ``f(x) - slope x`` at the
    knots of a piecewise linear f, and otherwise on a grid of 64 cells of width w, with ``min(sup|f''| w^2 / 8,
    (sup|f'| + |slope|) w / 2)`` for what may lie between its points. Activations that are not pointwise have constant
    lines, the ends of their interval.

    Args:
        activation: in float64.
        found: its extremes; None for k-WTA, which needs none.
    """

    def __init__(self, activation: Activation, found: Extremes | None) -> None:
        self.activation, self.found = activation, found
        if type(activation) is ReLU or not activation.pointwise:
            return
        bounds = None if isinstance(activation, ResidualKAF) else activation.bounds()
        self.knots = bounds.knots if isinstance(bounds, PiecewiseLinear) else None
        if self.knots is None:
            self.steep, self.bend = activation.lipschitz(), activation.curvature()

    def __call__(self, box: Box) -> Lines:
        """The lines on a box of inputs."""
        if type(self.activation) is ReLU:
            return _relu(box)
        if not self.activation.pointwise:
            flat = torch.zeros_like(box.low)
            low, high = passed(self.activation, box, self.found)
            return Lines(flat, low, flat, high)
        return self._parallel(box)

    def _parallel(self, box: Box) -> Lines:
        points = self._points(box)
        values = self.activation.forward(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        width = box.high - box.low
        from_mean = points - points.mean(0)
        chord = (values[-1] - values[0]) / width.clamp_min(1e-12)
        fit = (from_mean * values).sum(0) / from_mean.square().sum(0).clamp_min(1e-24)
        slope, low, high = torch.zeros_like(width), width - torch.inf, width + torch.inf
        for one in (torch.where(width > 1e-9, each, 0.0) for each in (chord, fit)):
            rest = values - one * points
            size = rest.abs().amax(0) + (one * points).abs().amax(0)
            room = self._between(one, width / CELLS) + ROUNDING * (1 + size)
            below, above = rest.amin(0) - room, rest.amax(0) + room
            closer = above - below < high - low
            slope, low = torch.where(closer, one, slope), torch.where(closer, below, low)
            high = torch.where(closer, above, high)
        return Lines(slope, low, slope, high)

    def _points(self, box: Box) -> Tensor:
        """Points ``(P, N, ...)`` of each interval, its ends first and last."""
        if self.knots is not None:
            knots = self.knots.to(box.low).T.nan_to_num(posinf=0.0, neginf=0.0)
            inner = [torch.clamp(per_channel(knot, box.low), box.low, box.high) for knot in knots]
            return torch.stack([box.low, *inner, box.high])
        share = torch.linspace(0, 1, CELLS + 1, dtype=box.low.dtype, device=box.low.device)
        return box.low + share.view(-1, *[1] * box.low.dim()) * (box.high - box.low)

    def _between(self, slope: Tensor, width: Tensor) -> Tensor:
        """What f may exceed a line by between two points."""
        if self.knots is not None:
            return torch.zeros_like(width)
        steep, bend = (per_channel(each.to(width), width) for each in (self.steep, self.bend))
        by_bend = (bend * width.square() / 8).nan_to_num(nan=torch.inf, posinf=torch.inf)  # NaN is infinity times 0
        return torch.minimum(by_bend, (steep + slope.abs()) * width / 2)


def _relu(box: Box) -> Lines:
    low, high = box.low, box.high
    chord = (high.relu() - low.relu()) / (high - low).clamp_min(torch.finfo(low.dtype).tiny)
    chord = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, chord))
    below = torch.where(high > -low, 1.0, 0.0)
    room = ROUNDING * torch.maximum(low.abs(), high.abs())
    above = torch.where((low < 0) & (high > 0), room - chord * low, 0.0)
    return Lines(below, torch.zeros_like(low), chord, above)
