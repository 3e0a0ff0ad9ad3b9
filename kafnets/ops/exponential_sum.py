"""Sums over Gaussians with one exponential per value and dictionary point, for any dictionary and bandwidth."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kafnets.ops.tiling import Buffers, ChannelRows, Piece, cut


class ExponentialSum:
    """The two sums of :mod:`kafnets.ops.gaussian_sum` for any dictionary.

    Infinite inputs are replaced by inputs so far away that every ``k_i`` is exactly 0, which keeps ``t_i^p k_i`` at 0
    too; NaN stays NaN.

    Args:
        dictionary: ``(D,)`` or ``(C, D)``.
        bandwidth: ``()`` or ``(C,)``, > 0.
        dtype: of the arithmetic, float32 or float64.
    """

    def __init__(self, dictionary: Tensor, bandwidth: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        points = dictionary.to(dtype).reshape(-1, dictionary.shape[-1]).T.contiguous()
        gamma = bandwidth.to(dtype).reshape(-1, 1, 1)
        limits = torch.finfo(dtype)
        # exp(1.3 log(tiny)) is exactly 0
        reach = torch.sqrt(-1.3 * math.log(limits.tiny) / gamma.clamp_min(limits.tiny))
        self.points, self.minus_gamma = points.reshape(*points.shape, 1, 1), -gamma
        self.floor = math.log(limits.tiny) + 4
        self.smallest = math.exp(self.floor + 1)
        self.low, self.high = self.points.amin(0) - reach, self.points.amax(0) + reach

    def weighted(self, x: ChannelRows, v: ChannelRows | None, weights: Tensor, out: ChannelRows) -> None:
        """Write ``v * sum_{i,p} W[p, c, i] t_i^p k_i`` to ``out``; ``weights`` is ``(P, C, D)``."""
        columns = weights.to(self.dtype).permute(2, 0, 1).reshape(*weights.shape[::2][::-1], -1, 1, 1)
        buffers = Buffers(x, self.dtype, 4)
        for piece in x.pieces():
            total, inside, t, k = buffers.shaped(piece)
            total.zero_()
            for i in self._terms(x, piece, inside, t, k):
                first, *rest = [cut(column, piece) for column in columns[i].flip(0)]
                if rest:
                    # Horner's rule in t, in the buffer of t: k is known already
                    polynomial = torch.mul(t, first)
                    for lower in rest[:-1]:
                        polynomial.add_(lower).mul_(t)
                    total.addcmul_(k, polynomial.add_(rest[-1]))
                else:
                    total.addcmul_(k, first)
            out.write(piece, total if v is None else total.mul_(v.read(piece)))

    def moments(self, x: ChannelRows, v: ChannelRows, powers: int) -> Tensor:
        """``R[p, c, i] = sum_{n,l} v t_i^p k_i`` for p < ``powers``, as ``(powers, C, D)``."""
        size = len(self.points)
        moments = torch.zeros(powers, x.num_channels, size, dtype=self.dtype, device=x.device)
        buffers = Buffers(x, self.dtype, 4)
        for piece in x.pieces():
            scale, inside, t, k = buffers.shaped(piece)
            scale.copy_(v.read(piece))
            for i in self._terms(x, piece, inside, t, k):
                k.mul_(scale)
                for p in range(powers):
                    moments[p, piece[0], i] += (k if p == 0 else k.mul_(t)).sum((1, 2))
        return moments

    def _terms(self, x: ChannelRows, piece: Piece, inside: Tensor, t: Tensor, k: Tensor) -> Iterator[int]:
        """For each i: fill ``t`` with ``x - d_i`` and ``k`` with the kernel's values, then yield i."""
        low, high, minus_gamma = (cut(v, piece) for v in (self.low, self.high, self.minus_gamma))
        torch.clamp(inside.copy_(x.read(piece)), low, high, out=inside)
        for i, point in enumerate(self.points):
            torch.sub(inside, cut(point, piece), out=t)
            torch.mul(t, t, out=k)
            # exp takes ten times as long where its result is subnormal: such results count as 0
            k.mul_(minus_gamma).clamp_min_(self.floor).exp_()
            torch.hardshrink(k, self.smallest, out=k)
            yield i
