"""Adaptive piecewise linear units as a layer."""

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import count
from kafnets.activations.derivative_bounds import PiecewiseLinear
from kafnets.activations.pointwise import per_channel
from kafnets.ops.recompute import lean


class APL(Activation):
    """``f(x) = max(0, x) + sum_s a_s max(0, b_s - x)``: a ReLU plus S trained hinges that open to the left.

    Agostinelli, Hoffman, Sadowski, Baldi, "Learning activation functions to improve deep neural networks", ICLR 2015
    workshop (arXiv 1412.6830), eq. 1. The paper learns one function per unit, here it is one per channel. As in the
    authors' code, ``a`` starts uniform in [-0.2, 0.2] and ``b`` normal with standard deviation 0.5; their weight decay
    of 0.001 on both is left to the optimiser.

    Args:
        num_channels: channels of the input.
        hinges: S, >= 1; the paper takes 5 for CIFAR-10 and 2 for CIFAR-100.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least. Parameters ``slopes`` and
        ``offsets`` ``(S, C)``. NaN gives NaN; infinite x counts as 1e30.

    Raises:
        ValueError: if ``hinges`` is not a positive integer.

    Example:
        >>> layer = APL(1, hinges=1)
        >>> _ = nn.init.constant_(layer.slopes, -0.5), nn.init.constant_(layer.offsets, 1.0)
        >>> layer(torch.tensor([[-1.0], [0.5], [3.0]])).detach().T
        tensor([[-1.0000,  0.2500,  3.0000]])
    """

    def __init__(self, num_channels: int, *, hinges: int = 5) -> None:
        super().__init__(num_channels)
        shape = (count("hinges", hinges, 1, 5), num_channels)
        self.slopes = nn.Parameter(torch.empty(shape).uniform_(-0.2, 0.2))
        self.offsets = nn.Parameter(0.5 * torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return lean(_apl, self.check(x), *(per_channel(p, x) for p in (self.slopes, self.offsets)))

    def bounds(self) -> PiecewiseLinear:
        """One bend at 0 and one at each offset."""
        slopes = self.slopes.double().T
        offsets, order = self.offsets.double().T.sort(dim=1)
        zero = slopes.new_zeros(self.num_channels, 1)
        knots, place = torch.cat([zero, offsets], 1).sort(dim=1)
        bends = torch.cat([zero + 1, slopes.gather(1, order)], 1).gather(1, place)
        return PiecewiseLinear(knots, torch.cat([zero, bends.cumsum(1)], 1) - slopes.sum(1, keepdim=True))

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, hinges={len(self.slopes)}"


def _apl(x: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    total = x.relu()
    for slope, offset in zip(slopes, offsets, strict=True):
        total = total + slope * (offset - x).relu()
    return total
