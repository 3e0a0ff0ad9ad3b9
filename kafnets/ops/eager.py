"""Sums over Gaussians by PyTorch's own operations, piece by piece, for any device, dtype and number of powers."""

import torch
from torch import Tensor

from kafnets.ops.engine import Engine, Found, Wanted, arithmetic_dtype, slope_weights
from kafnets.ops.exponential_sum import ExponentialSum
from kafnets.ops.tiling import ChannelRows, empty_dense, has_channels_last
from kafnets.ops.uniform_recurrence import Recurrence, plan_recurrence


class EagerSweep(Engine):
    """Cuts the input into pieces which stay in the cache."""

    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """One pass for each output that is wanted; see :meth:`kafnets.ops.engine.Engine.sweep`."""
        scale = a if v is None else v if a is None else a * v
        value = slope = moments = None
        if weights is not None and want[0]:
            value = self._weighted(x, a, weights)
        if weights is not None and want[1]:
            slope = self._weighted(x, scale, slope_weights(weights, self.bandwidth))
        if want[2]:
            moments = self._moments(x, torch.ones_like(x) if scale is None else scale, powers)
        return value, slope, moments

    def _weighted(self, x: Tensor, v: Tensor | None, weights: Tensor) -> Tensor:
        out, last = empty_dense(x, x.dtype), has_channels_last(x)
        factor = None if v is None else ChannelRows(v, channels_last=last)
        engine = self._engine(x, weights.shape[0], Recurrence.weighted_powers)
        engine.weighted(ChannelRows(x, channels_last=last), factor, weights, ChannelRows(out, channels_last=last))
        return out

    def _moments(self, x: Tensor, v: Tensor, powers: int) -> Tensor:
        last = has_channels_last(x)
        engine = self._engine(x, powers, Recurrence.moment_powers)
        return engine.moments(ChannelRows(x, channels_last=last), ChannelRows(v, channels_last=last), powers)

    def _engine(self, x: Tensor, powers: int, limit: int) -> Recurrence | ExponentialSum:
        dtype = arithmetic_dtype(x, self.dictionary)
        if self.grid is not None and powers <= limit and (plan := plan_recurrence(self.grid, dtype)):
            return Recurrence(self.grid, plan, dtype)
        return ExponentialSum(self.dictionary, self.bandwidth, dtype)
