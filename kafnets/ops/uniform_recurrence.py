"""Sums over evenly spaced Gaussians by a recurrence: a handful of exponentials instead of one per dictionary point."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from kafnets.ops.tiling import Buffers, ChannelRows, Piece, cut


@dataclass(frozen=True)
class Grid:
    """A fixed dictionary ``d_i = first + i step`` (0 <= i < size) under one bandwidth, for all channels.

    Args:
        first: the first dictionary point, in units of x.
        step: the spacing Delta > 0, in units of x.
        size: the number of points D >= 2.
        bandwidth: gamma > 0, in 1 / (units of x)^2.
    """

    first: float
    step: float
    size: int
    bandwidth: float

    @classmethod
    def of(cls, dictionary: Tensor, bandwidth: Tensor) -> "Grid | None":
        """The grid of a dictionary ``(D,)`` and a bandwidth ``()``, or None if the points are not evenly spaced.

        Example:
            >>> Grid.of(torch.linspace(-1, 1, 5), torch.tensor(2.0))
            Grid(first=-1.0, step=0.5, size=5, bandwidth=2.0)
            >>> Grid.of(torch.tensor([0.0, 1.0, 3.0]), torch.tensor(2.0)) is None
            True
        """
        if dictionary.dim() != 1 or bandwidth.dim() != 0 or len(dictionary) < 2 or dictionary.is_meta:
            return None
        points, gamma = dictionary.double().cpu(), float(bandwidth)
        first, last, size = float(points[0]), float(points[-1]), len(points)
        even = torch.linspace(first, last, size, dtype=points.dtype, device="cpu")
        rounding = 4 * torch.finfo(dictionary.dtype).eps * float(points.abs().max())
        if not (first < last and 0 < gamma < math.inf and (points - even).abs().max() <= rounding):
            return None
        return cls(first, (last - first) / (size - 1), size, gamma)

    def points(self) -> Tensor:
        """The dictionary ``(D,)``, in float64 on the CPU: stored points differ from it by their rounding."""
        return self.first + self.step * torch.arange(self.size, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class RecurrencePlan:
    """A recurrence for a grid of at most ``2 * half`` points, whose powers are taken at u clamped to +-``clamp``."""

    half: int
    clamp: float


# Powers multiply rounding errors. Up to 20 points float32 errs by less than 5e-6 of max|f| even where coefficients of
# 70 cancel (ridge regression); with 22 points by 8e-6, and with 32 in two blocks, which cancel each other, by 2e-5.
LONGEST_HALF = 10


@lru_cache
def plan_recurrence(grid: Grid, dtype: torch.dtype) -> RecurrencePlan | None:
    """The recurrence whose powers and Gaussians stay inside the dtype's range wherever they matter, or None.

    With s = gamma Delta^2 and 2 J points, ``clamp`` U is where the outermost Gaussian has fallen to ``exp(-tail)``:
    ``s (U - J + 1/2)^2 = tail``. Up to there ``exp(-s U^2)`` must be a normal number, and the highest term
    ``exp(2 s U (J - 1/2) - s (J - 1/2)^2)`` must leave room for coefficients. None for more than 20 points
    and for very large bandwidths: :mod:`kafnets.ops.exponential_sum` computes those.
    """
    limits = torch.finfo(dtype)
    tail = 20.0 if dtype == torch.float32 else 40.0
    s, half = grid.bandwidth * grid.step**2, (grid.size + 1) // 2
    outermost, clamp = half - 0.5, half - 0.5 + math.sqrt(tail / s)
    growth = 2 * s * clamp * outermost - s * outermost**2
    fits = s * clamp**2 < -math.log(limits.tiny) and growth < math.log(limits.max) - 20
    return RecurrencePlan(half, clamp) if half <= LONGEST_HALF and fits else None


class Recurrence:
    """The two sums of :mod:`kafnets.ops.gaussian_sum` on a :class:`Grid`.

    In steps from the grid's centre, ``u = (x - centre) / Delta``, the points are ``+-(j + 1/2)`` for 0 <= j < J, and
    with ``s = gamma Delta^2``, ``r = exp(s u)``, ``q = r^2``, ``w_j = exp(-s (j + 1/2)^2)``

        k_{+-j} = exp(-s (u -+ (j + 1/2))^2) = exp(-s u^2) w_j r^{+-1} q^{+-j},

    so that a weighted sum is two polynomials, one in q and one in 1/q, evaluated by Horner's rule from the outermost
    point inwards: all terms are bounded. (A single recurrence from left to right would lose all digits to
    cancellation.) ``r`` is taken at a clamped u, and ``exp(-s u^2)`` at the true one: far away, and at infinity, the
    product is exactly 0. NaN passes through both.

    Args:
        grid: dictionary and bandwidth.
        plan: its :func:`plan_recurrence` for the dtype.
        dtype: of the arithmetic, float32 or float64.
    """

    weighted_powers = 2
    moment_powers = 1

    def __init__(self, grid: Grid, plan: RecurrencePlan, dtype: torch.dtype) -> None:
        self.grid, self.plan, self.dtype = grid, plan, dtype
        self.s = grid.bandwidth * grid.step**2
        self.centre = grid.first + grid.step * (plan.half - 0.5)
        steps = torch.arange(plan.half, dtype=torch.float64, device="cpu") + 0.5
        self.steps = torch.stack([steps, -steps])
        self.falls = torch.exp(-self.s * steps**2)

    def weighted(self, x: ChannelRows, v: ChannelRows | None, weights: Tensor, out: ChannelRows) -> None:
        """Write ``v * sum_{i,p} W[p, c, i] t_i^p k_i`` to ``out``; ``weights`` is ``(P, C, D)`` with P <= 2."""
        table = self._polynomials(weights)
        buffers = Buffers(x, self.dtype, 7)
        for piece in x.pieces():
            total, u, bell, r, q, value, slope = buffers.shaped(piece)
            total.zero_()
            self._prepare(x, piece, u, bell, r)
            for side in range(2):
                if side:
                    r.reciprocal_()
                torch.mul(r, r, out=q)
                constant, *linear = [[cut(c, piece) for c in rows[side]] for rows in table]
                _horner(constant, q, out=value)
                if linear:
                    value.addcmul_(_horner(linear[0], q, out=slope), u)
                total.addcmul_(value.mul_(bell), r)
            out.write(piece, total if v is None else total.mul_(v.read(piece)))

    def moments(self, x: ChannelRows, v: ChannelRows, powers: int) -> Tensor:
        """``R[0, c, i] = sum_{n,l} v k_i``, as ``(1, C, D)``; ``powers`` must be 1."""
        sums = torch.zeros(2, self.plan.half, x.num_channels, dtype=self.dtype, device=x.device)
        buffers = Buffers(x, self.dtype, 3 + self.plan.half)
        for piece in x.pieces():
            u, bell, r, *terms = scratch = buffers.shaped(piece)
            self._prepare(x, piece, u, bell, r)
            bell.mul_(v.read(piece))
            for side in range(2):
                if side:
                    r.reciprocal_()
                torch.mul(bell, r, out=terms[0])
                q = torch.mul(r, r, out=u)
                for lower, higher in pairwise(terms):
                    torch.mul(lower, q, out=higher)
                sums[side, :, piece[0]] += scratch[3:].sum((2, 3))
        return self._in_order(sums)

    def _in_order(self, sums: Tensor) -> Tensor:
        """``R[0]`` as ``(1, C, D)`` from the sums of ``v r^{+-1} q^{+-j} exp(-s u^2)``, ``(2 sides, J, C)``."""
        right, left = sums * self.falls.to(sums).view(-1, 1)
        return torch.cat([left.flip(0), right])[: self.grid.size].T.unsqueeze(0)

    def _polynomials(self, weights: Tensor) -> list[Tensor]:
        """The polynomials' coefficients ``(2 sides, J, C, 1, 1)``: a constant and, for P = 2, a slope in u.

        ``W_0 + W_1 t_i`` with ``t_i = Delta (u - i)`` is ``(W_0 - Delta i W_1) + (Delta W_1) u``.
        """
        half = self.plan.half
        padded = torch.nn.functional.pad(weights.to(self.dtype), (0, 2 * half - self.grid.size))
        left, right = padded.split(half, dim=-1)
        sides = torch.stack([right, left.flip(-1)]).permute(1, 0, 3, 2)[..., None, None]
        falls, steps = (v.to(sides).view(-1, half, 1, 1, 1) for v in (self.falls, self.steps))
        constant, *linear = sides * falls
        if not linear:
            return [constant]
        slope = linear[0] * self.grid.step
        return [constant - steps * slope, slope]

    def _prepare(self, x: ChannelRows, piece: Piece, u: Tensor, bell: Tensor, r: Tensor) -> None:
        """Fill ``u`` (clamped), ``bell = exp(-s u^2)`` (not clamped) and ``r = exp(s u)``."""
        torch.sub(x.read(piece), self.centre, out=u)
        u.mul_(1 / self.grid.step)
        torch.mul(u, u, out=bell)
        bell.mul_(-self.s).exp_()
        u.clamp_(-self.plan.clamp, self.plan.clamp)
        torch.mul(u, self.s, out=r)
        r.exp_()


def _horner(coefficients: Sequence[Tensor], q: Tensor, *, out: Tensor) -> Tensor:
    """``coefficients[0] + coefficients[1] q + ...``, written to ``out`` and returned."""
    *lower, highest = coefficients
    if not lower:
        return out.copy_(highest.expand_as(out))
    torch.addcmul(lower[-1], q, highest, out=out)
    for coefficient in reversed(lower[:-1]):
        torch.addcmul(coefficient, out, q, out=out)
    return out
