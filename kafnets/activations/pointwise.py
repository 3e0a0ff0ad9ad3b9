"""The usual activations with the constructor of the trainable ones; none changes its input in place."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import finite, positive
from kafnets.activations.derivative_bounds import SLACK, PiecewiseLinear, Turning

# zeros of the second derivative of x / (1 + exp(-x)), where x tanh(x / 2) = 2, and of the third, found numerically
SILU_FIRST_TURN = 2.399357280515467
SILU_SECOND_TURN = 3.435840993535111


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """Reshape a parameter ``(..., C)`` so that it broadcasts with ``x`` ``(N, C, *spatial)``."""
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - 2))


class ReLU(Activation):
    """``max(x, 0)``. Nair and Hinton, ICML 2010.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; values >= 0.

    Example:
        >>> ReLU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.relu(self.check(x))

    def bounds(self) -> PiecewiseLinear:
        """Slopes 0 and 1, a bend at 0."""
        return _bent_at_zero(torch.zeros(self.num_channels))


class LeakyReLU(Activation):
    """``x`` for ``x >= 0``, ``negative_slope * x`` below. Maas, Hannun, Ng, ICML workshop 2013.

    Args:
        num_channels: channels of the input.
        negative_slope: the slope below zero, from -1e6 to 1e6.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Raises:
        ValueError: if ``negative_slope`` is out of its range.

    Example:
        >>> LeakyReLU(2, negative_slope=0.5)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.5000,  2.0000]])
    """

    def __init__(self, num_channels: int, *, negative_slope: float = 0.01) -> None:
        super().__init__(num_channels)
        self.negative_slope = finite("negative_slope", negative_slope, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.leaky_relu(self.check(x), self.negative_slope)

    def bounds(self) -> PiecewiseLinear:
        """Slopes ``negative_slope`` and 1, a bend at 0."""
        return _bent_at_zero(torch.full((self.num_channels,), self.negative_slope, dtype=torch.float64))

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, negative_slope={self.negative_slope}"


class PReLU(Activation):
    """``x`` for ``x >= 0``, ``weight[c] * x`` below, with a trained slope per channel. He et al., ICCV 2015.

    Args:
        num_channels: channels of the input.
        init: the initial slope of every channel, from -1e6 to 1e6.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype. Parameter ``weight`` ``(C,)``.

    Raises:
        ValueError: if ``init`` is out of its range.

    Example:
        >>> PReLU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.2500,  2.0000]], grad_fn=<PreluKernelBackward0>)
    """

    def __init__(self, num_channels: int, *, init: float = 0.25) -> None:
        super().__init__(num_channels)
        self.init = finite("init", init, 0.25)
        self.weight = nn.Parameter(torch.full((num_channels,), self.init))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.prelu(self.check(x), self.weight.to(x.dtype))

    def bounds(self) -> PiecewiseLinear:
        """Slopes ``weight`` and 1, a bend at 0."""
        return _bent_at_zero(self.weight)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, init={self.init}"


class ELU(Activation):
    """``x`` for ``x > 0``, ``alpha (exp(x) - 1)`` below. Clevert, Unterthiner, Hochreiter, ICLR 2016.

    Args:
        num_channels: channels of the input.
        alpha: minus the limit at minus infinity, from 1e-6 to 1e6.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; values > -alpha.

    Raises:
        ValueError: if ``alpha`` is out of its range.

    Example:
        >>> ELU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.6321,  2.0000]])
    """

    def __init__(self, num_channels: int, *, alpha: float = 1.0) -> None:
        super().__init__(num_channels)
        self.alpha = positive("alpha", alpha, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.elu(self.check(x), self.alpha)

    def bounds(self) -> "ExponentialLeft":
        """Exact: an exponential below 0, a straight line above."""
        return ExponentialLeft(self.alpha, self.num_channels)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, alpha={self.alpha}"


class GELU(Activation):
    """``x Phi(x)`` with the normal distribution function Phi. Hendrycks and Gimpel 2016 (arXiv 1606.08415).

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Example:
        >>> GELU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.1587,  1.9545]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.gelu(self.check(x))

    def bounds(self) -> Turning:
        """``f' = Phi + x phi`` turns at +-sqrt(2), ``f'' = (2 - x^2) phi`` at 0 and +-2."""
        return Turning(_gelu_slope, _gelu_curvature, *_turns(self.num_channels, [math.sqrt(2)], [0.0, 2.0]))


class SiLU(Activation):
    """``x / (1 + exp(-x))``, also called Swish. Elfwing, Uchibe, Doya 2018; Ramachandran et al. 2017.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Example:
        >>> SiLU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.2689,  1.7616]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.silu(self.check(x))

    def bounds(self) -> Turning:
        """``f'`` turns at +-2.3994, ``f''`` at 0 and +-3.4358."""
        turns = _turns(self.num_channels, [SILU_FIRST_TURN], [0.0, SILU_SECOND_TURN])
        return Turning(silu_slope, silu_curvature, *turns)


Swish = SiLU


class Softplus(Activation):
    """``log(1 + exp(beta x)) / beta``, a smooth ReLU. Dugas et al., NIPS 2000.

    Args:
        num_channels: channels of the input.
        beta: sharpness, from 1e-6 to 1e6, in 1 / (units of x); ReLU is the limit at infinity.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; values > 0.

    Raises:
        ValueError: if ``beta`` is out of its range.

    Example:
        >>> Softplus(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[0.3133, 2.1269]])
    """

    def __init__(self, num_channels: int, *, beta: float = 1.0) -> None:
        super().__init__(num_channels)
        self.beta = positive("beta", beta, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.softplus(self.check(x), self.beta)

    def bounds(self) -> Turning:
        """``f' = sigmoid(beta x)`` grows, ``f''`` turns at 0."""
        return softplus_bounds(torch.full((self.num_channels,), self.beta, dtype=torch.float64))

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, beta={self.beta}"


@dataclass(frozen=True)
class ExponentialLeft:
    """The bounds of :class:`ELU`: slope ``alpha exp(x)`` below 0 and 1 above.

    Attributes:
        alpha: > 0; 1 makes the slope continuous.
        num_channels: number of channels.
    """

    alpha: float
    num_channels: int

    def slope(self, low: float, high: float) -> Tensor:
        """``alpha exp(high)`` on the left, 1 where the interval reaches beyond 0."""
        found = max(self._left(low, high), 1.0 if high > 0 else 0.0)
        return torch.full((self.num_channels,), found, dtype=torch.float64)

    def curvature(self, low: float, high: float) -> Tensor:
        """The slope on the left is its own derivative; infinite if it jumps at 0."""
        found = math.inf if low < 0 < high and self.alpha != 1 else self._left(low, high)
        return torch.full((self.num_channels,), found, dtype=torch.float64)

    def _left(self, low: float, high: float) -> float:
        return self.alpha * math.exp(min(high, 0.0)) * SLACK if low < 0 else 0.0


def softplus_bounds(beta: Tensor) -> Turning:
    """The bounds of ``log(1 + exp(beta x)) / beta`` with a beta per channel, ``(C,)``."""
    rate = beta.detach().double().cpu()[:, None]
    at_zero = torch.zeros_like(rate)

    def slope(x: Tensor) -> Tensor:
        return (rate * x).sigmoid()

    def curvature(x: Tensor) -> Tensor:
        return rate * slope(x) * slope(-x)

    return Turning(slope, curvature, at_zero, at_zero)


def silu_slope(x: Tensor) -> Tensor:
    """``d/dx x sigmoid(x)``, with its limits."""
    x = x.clamp(-1e3, 1e3)  # exp(-1000) is 0 already, and infinity times 0 would be NaN
    return x.sigmoid() * (1 + x * (-x).sigmoid())


def silu_curvature(x: Tensor) -> Tensor:
    """``d^2/dx^2 x sigmoid(x)``, with its limits."""
    x = x.clamp(-1e3, 1e3)
    return x.sigmoid() * (-x).sigmoid() * (2 - x * torch.tanh(x / 2))


def _gelu_slope(x: Tensor) -> Tensor:
    x = x.clamp(-1e2, 1e2)
    return torch.special.ndtr(x) + x * _normal_density(x)


def _gelu_curvature(x: Tensor) -> Tensor:
    x = x.clamp(-1e2, 1e2)
    return (2 - x**2) * _normal_density(x)


def _normal_density(x: Tensor) -> Tensor:
    return torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _bent_at_zero(left: Tensor) -> PiecewiseLinear:
    return PiecewiseLinear(torch.zeros(len(left), 1), torch.stack([left, torch.ones_like(left)], 1))


def _turns(num_channels: int, *halves: list[float]) -> tuple[Tensor, ...]:
    """Turning points and their mirror images, the same for every channel."""
    return tuple(torch.tensor([half + [-t for t in half]]).double().expand(num_channels, -1) for half in halves)
