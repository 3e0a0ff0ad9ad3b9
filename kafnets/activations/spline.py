"""Cubic spline activation functions as a layer."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import count, named, new, positive, sampled
from kafnets.activations.derivative_bounds import Turning
from kafnets.activations.piecewise import piecewise
from kafnets.ops.recompute import FAR, lean


class Spline(Activation):
    """A trained cubic B-spline per channel on evenly spaced knots, with two continuous derivatives, linear outside.

    ``f(x) = sum_k q[c, k] B((x - t_k) / Delta)`` with the uniform cubic B-spline B: at the fraction u of the way from
    knot k to k + 1, ``(1, u, u^2, u^3) M (q_{k-1}, q_k, q_{k+1}, q_{k+2})``. Vecci, Piazza, Uncini, "Learning and
    approximation capabilities of adaptive spline activation function neural networks", Neural Networks 11, 1998;
    Scarpiniti, Comminiello, Parisi, Uncini, "Nonlinear spline adaptive filtering", Signal Processing 93, 2013, section
    2 (whose B-spline basis this is). Each value depends on its four nearest control points only. The control points
    beyond both ends continue the last two linearly: f'' is then 0 at the ends (a natural spline), and f continues as a
    straight line.

    Args:
        num_channels: channels of the input.
        num_knots: number of control points K, one per knot, >= 2; the default equals a KAF's number of coefficients.
        boundary: the knots are evenly spaced from ``-boundary`` to ``boundary``, from 1e-6 to 1e6, in units of x.
        init: the elementwise function to start as; the spline interpolates it at the knots.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least. Parameter ``control``
        ``(C, K)``. NaN gives NaN; infinite x counts as 1e30.

    Raises:
        ValueError: if a setting is out of its range, or ``init`` is not finite at the knots.
        TypeError: if ``init`` is not callable.

    Example:
        >>> Spline(2)(torch.tensor([[-1.0, 2.0]])).detach().round(decimals=2)
        tensor([[-0.2700,  1.7600]])
    """

    def __init__(
        self,
        num_channels: int,
        *,
        num_knots: int = 20,
        boundary: float = 3.0,
        init: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__(num_channels)
        knots = count("num_knots", num_knots, 2, 20)
        self.boundary, self.init = positive("boundary", boundary, 3.0), init
        self.step = 2 * self.boundary / (knots - 1)
        with torch.device("cpu"):
            points = torch.linspace(-self.boundary, self.boundary, knots, dtype=torch.float64)
            control = interpolating_control(sampled(init, points))
        self.control = nn.Parameter(new(control).repeat(num_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        curve = partial(piecewise, first=-self.boundary, step=self.step)
        return lean(curve, self.check(x), cubic_pieces(self.control))

    def bounds(self) -> Turning:
        """Exact: f' is a parabola between knots and turns where ``f'' = 0``, f'' is a straight line between knots."""
        _, linear, square, cube = cubic_pieces(self.control.detach().double().cpu()) / self.step
        first = torch.stack([linear, 2 * square, 3 * cube])
        second = torch.stack([2 * square, 6 * cube]) / self.step
        knots = torch.linspace(-self.boundary, self.boundary, self.control.shape[1], dtype=torch.float64)
        vertex = (-square / (3 * cube)).nan_to_num(0.0).clamp(0, 1)[:, 1:-1]
        curve = partial(piecewise, first=-self.boundary, step=self.step)
        return Turning(
            lambda x: curve(x.T.clamp(-FAR, FAR), first).T,
            lambda x: curve(x.T.clamp(-FAR, FAR), second).T,
            knots[:-1] + self.step * vertex,
            knots.expand(self.num_channels, -1),
        )

    def extra_repr(self) -> str:
        """Name the settings."""
        size = self.control.shape[1]
        return f"{super().extra_repr()}, num_knots={size}, boundary={self.boundary:g}, init={named(self.init)}"


def cubic_pieces(control: Tensor) -> Tensor:
    """The polynomials' coefficients for :func:`piecewise`, ``(4, C, K + 1)``, from control points ``(C, K)``."""
    before, after = 2 * control[:, :1] - control[:, 1:2], 2 * control[:, -1:] - control[:, -2:-1]
    q = torch.cat([before, control, after], 1).to(torch.promote_types(control.dtype, torch.float32))
    a, b, c, d = q[:, :-3], q[:, 1:-2], q[:, 2:-1], q[:, 3:]
    inner = torch.stack([(a + 4 * b + c) / 6, (c - a) / 2, (a - 2 * b + c) / 2, (d - a + 3 * (b - c)) / 6])
    flat = torch.zeros_like(q[:, 0])
    left = torch.stack([q[:, 1], q[:, 2] - q[:, 1], flat, flat])
    right = torch.stack([q[:, -2], q[:, -2] - q[:, -3], flat, flat])
    return torch.cat([left.unsqueeze(-1), inner, right.unsqueeze(-1)], -1)


def interpolating_control(values: Tensor) -> Tensor:
    """The control points ``(K,)`` of the natural spline through values ``(K,)`` at the knots, float64.

    ``(q_{k-1} + 4 q_k + q_{k+1}) / 6 = v_k`` inside and ``q_k = v_k`` at both ends.
    """
    size = len(values)
    system = torch.eye(size, dtype=torch.float64) * 4
    system += torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    system += torch.diag(torch.ones(size - 1, dtype=torch.float64), -1)
    system[[0, -1]] = 6 * torch.eye(size, dtype=torch.float64)[[0, -1]]
    return torch.linalg.solve(system / 6, values.double())
