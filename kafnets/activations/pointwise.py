"""The usual activations, out of place, under the same constructor as the trainable ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation


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


class LeakyReLU(Activation):
    """``x`` for ``x >= 0``, ``negative_slope * x`` below. Maas, Hannun, Ng, ICML workshop 2013.

    Args:
        num_channels: channels of the input.
        negative_slope: the slope below zero.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Example:
        >>> LeakyReLU(2, negative_slope=0.5)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.5000,  2.0000]])
    """

    def __init__(self, num_channels: int, *, negative_slope: float = 0.01) -> None:
        super().__init__(num_channels)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.leaky_relu(self.check(x), self.negative_slope)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, negative_slope={self.negative_slope}"


class PReLU(Activation):
    """``x`` for ``x >= 0``, ``weight[c] * x`` below, with a trained slope per channel. He et al., ICCV 2015.

    Args:
        num_channels: channels of the input.
        init: the slopes to start from.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype. Parameter ``weight`` ``(C,)``.

    Example:
        >>> PReLU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.2500,  2.0000]], grad_fn=<PreluKernelBackward0>)
    """

    def __init__(self, num_channels: int, *, init: float = 0.25) -> None:
        super().__init__(num_channels)
        self.init = init
        self.weight = nn.Parameter(torch.full((num_channels,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.prelu(self.check(x), self.weight)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, init={self.init}"


class ELU(Activation):
    """``x`` for ``x > 0``, ``alpha (exp(x) - 1)`` below. Clevert, Unterthiner, Hochreiter, ICLR 2016.

    Args:
        num_channels: channels of the input.
        alpha: minus the limit at minus infinity, > 0.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; values > -alpha.

    Raises:
        ValueError: if ``alpha`` is not positive.

    Example:
        >>> ELU(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[-0.6321,  2.0000]])
    """

    def __init__(self, num_channels: int, *, alpha: float = 1.0) -> None:
        super().__init__(num_channels)
        if not alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha!r}; the default is 1")
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.elu(self.check(x), self.alpha)

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


Swish = SiLU


class Softplus(Activation):
    """``log(1 + exp(beta x)) / beta``, a smooth ReLU. Dugas et al., NIPS 2000.

    Args:
        num_channels: channels of the input.
        beta: sharpness, > 0, in 1 / (units of x); ReLU is the limit at infinity.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; values > 0.

    Raises:
        ValueError: if ``beta`` is not positive.

    Example:
        >>> Softplus(2)(torch.tensor([[-1.0, 2.0]]))
        tensor([[0.3133, 2.1269]])
    """

    def __init__(self, num_channels: int, *, beta: float = 1.0) -> None:
        super().__init__(num_channels)
        if not beta > 0:
            raise ValueError(f"beta must be > 0, got {beta!r}; the default is 1")
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return F.softplus(self.check(x), self.beta)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, beta={self.beta}"
