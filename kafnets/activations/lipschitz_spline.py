"""1-Lipschitz linear splines as a layer."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import count, named, new, positive, sampled
from kafnets.activations.derivative_bounds import PiecewiseLinear
from kafnets.activations.piecewise import piecewise
from kafnets.ops.recompute import lean


class LipschitzSpline(Activation):
    """A trained piecewise linear function per channel, whose slopes never leave [-1, 1].

    Ducotterd, Goujon, Bohra, Perdios, Neumayer, Unser, "Improving Lipschitz-constrained neural networks by learning
    activation functions", JMLR 25, 2024 (arXiv 2210.16222), section 4. The values at the knots are unconstrained
    parameters; every forward pass projects them: slopes are clipped to [-1, 1] and summed up again, and the mean of the
    values is kept (``SplineProj``). The first and last piece continue as straight lines. With ``scaled``, ``f(x) = g(s
    x) / s`` with a trained ``s > 0`` per channel stretches the grid to where the data lie and keeps all slopes; the
    paper trains s, here its logarithm is trained, so that s stays positive.

    Args:
        num_channels: channels of the input.
        num_knots: number of knots K, >= 2; an odd number puts a knot at 0.
        boundary: the knots are evenly spaced from ``-boundary`` to ``boundary``, from 1e-6 to 1e6, in units of x.
        init: the elementwise function that gives the initial values at the knots; steeper parts are projected.
        scaled: train the scaling factor s.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least. Parameters ``values``
        ``(C, K)`` and, if ``scaled``, ``log_scale`` ``(C,)``. NaN gives NaN; infinite x counts as 1e30.

    Raises:
        ValueError: if a setting is out of its range, or ``init`` is not finite at the knots.
        TypeError: if ``init`` is not callable.

    Example:
        >>> layer = LipschitzSpline(1, init=lambda x: 5 * x)
        >>> layer(torch.tensor([[-1.5], [2.25]])).detach().round(decimals=4).T, layer.lipschitz()
        (tensor([[-1.5000,  2.2500]]), tensor([1.], dtype=torch.float64))
    """

    def __init__(
        self,
        num_channels: int,
        *,
        num_knots: int = 21,
        boundary: float = 3.0,
        init: Callable[[Tensor], Tensor] = F.relu,
        scaled: bool = True,
    ) -> None:
        super().__init__(num_channels)
        knots = count("num_knots", num_knots, 2, 21)
        self.boundary, self.init = positive("boundary", boundary, 3.0), init
        self.step = 2 * self.boundary / (knots - 1)
        with torch.device("cpu"):
            values = sampled(init, torch.linspace(-self.boundary, self.boundary, knots))
        self.values = nn.Parameter(new(values).repeat(num_channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(num_channels)) if scaled else None

    def projected(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The values at the knots ``(C, K)`` and the rises between them ``(C, K - 1)`` after the projection.

        Computed in ``dtype``, or in the parameters' own where that is finer.
        """
        values = self.values.to(torch.promote_types(self.values.dtype, dtype))
        rises = values.diff(dim=1).clamp(-self.step, self.step)
        climbed = F.pad(rises.cumsum(1), (1, 0))
        return climbed + (values - climbed).mean(1, keepdim=True), rises

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        values, rises = self.projected()
        pieces = torch.stack([torch.cat([values[:, :1], values], 1), F.pad(rises[None], (1, 1), mode="replicate")[0]])
        curve = partial(piecewise, first=-self.boundary, step=self.step)
        if self.log_scale is None:
            return lean(curve, self.check(x), pieces)
        scale = self.log_scale.to(pieces.dtype).exp()
        return lean(curve, self.check(x), pieces / scale[:, None], scale)

    def bounds(self) -> PiecewiseLinear:
        """The clipped slopes, never above 1."""
        slopes = (self.projected(torch.float64)[1] / self.step).clamp(-1, 1)
        stretch = 1 if self.log_scale is None else self.log_scale.double().exp()[:, None]
        knots = torch.linspace(-self.boundary, self.boundary, self.values.shape[1], dtype=torch.float64)
        ends = F.pad(slopes[None], (1, 1), mode="replicate")[0]
        return PiecewiseLinear(knots.to(slopes.device).expand(self.num_channels, -1) / stretch, ends)

    def extra_repr(self) -> str:
        """Name the settings."""
        settings = f"num_knots={self.values.shape[1]}, boundary={self.boundary:g}, init={named(self.init)}"
        return f"{super().extra_repr()}, {settings}, scaled={self.log_scale is not None}"
