"""S-shaped rectified linear units as a layer."""

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import finite
from kafnets.activations.derivative_bounds import PiecewiseLinear
from kafnets.activations.pointwise import per_channel
from kafnets.ops.recompute import lean


class SReLU(Activation):
    """The identity between two thresholds and a straight line beyond each; thresholds and slopes are trained.

    ``f(x) = t_l + a_l (x - t_l)`` for ``x <= t_l``, ``x`` between, ``t_r + a_r (x - t_r)`` for ``x >= t_r``. Jin, Xu,
    Feng, Wei, Xiong, Yan, "Deep learning with S-shaped rectified linear activation units", AAAI 2016 (arXiv
    1512.07030), eq. 3. Computed as ``x + (1 - a_l) max(t_l - x, 0) + (a_r - 1) max(x - t_r, 0)``, which is the same and
    stays continuous if training makes the thresholds cross. The paper freezes a leaky ReLU for some epochs and then
    sets ``t_r`` from the data; here all four are trained from the start.

    Args:
        num_channels: channels of the input.
        left_threshold: initial ``t_l``, in units of x.
        left_slope: initial ``a_l``.
        right_threshold: initial ``t_r``, in units of x, above ``left_threshold``.
        right_slope: initial ``a_r``.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least. Parameters
        ``left_threshold``, ``left_slope``, ``right_threshold``, ``right_slope``, each ``(C,)``. NaN gives NaN;
        infinite x counts as 1e30.

    Raises:
        ValueError: if a setting is not from -1e6 to 1e6, or the thresholds are not in order.

    Example:
        >>> SReLU(1)(torch.tensor([[-1.0], [0.5], [3.0]])).detach().T
        tensor([[-0.2000,  0.5000,  3.0000]])
    """

    def __init__(
        self,
        num_channels: int,
        *,
        left_threshold: float = 0.0,
        left_slope: float = 0.2,
        right_threshold: float = 1.0,
        right_slope: float = 1.0,
    ) -> None:
        super().__init__(num_channels)
        low, high = finite("left_threshold", left_threshold, 0.0), finite("right_threshold", right_threshold, 1.0)
        if not low < high:
            raise ValueError(f"left_threshold must be < right_threshold, got {low} and {high}; the defaults are 0, 1")
        self.left_threshold = nn.Parameter(torch.full((num_channels,), low))
        self.left_slope = nn.Parameter(torch.full((num_channels,), finite("left_slope", left_slope, 0.2)))
        self.right_threshold = nn.Parameter(torch.full((num_channels,), high))
        self.right_slope = nn.Parameter(torch.full((num_channels,), finite("right_slope", right_slope, 1.0)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        parameters = (self.left_threshold, self.left_slope, self.right_threshold, self.right_slope)
        return lean(_srelu, self.check(x), *(per_channel(p, x) for p in parameters))

    def bounds(self) -> PiecewiseLinear:
        """Three pieces; between crossed thresholds both outer terms apply."""
        low, high = self.left_threshold, self.right_threshold
        left, right = self.left_slope.double(), self.right_slope.double()
        middle = torch.where(low <= high, 1.0, left + right - 1)
        knots = torch.stack([torch.minimum(low, high), torch.maximum(low, high)], 1)
        return PiecewiseLinear(knots, torch.stack([left, middle, right], 1))


def _srelu(x: Tensor, low: Tensor, left: Tensor, high: Tensor, right: Tensor) -> Tensor:
    return x + (1 - left) * (low - x).relu() + (right - 1) * (x - high).relu()
