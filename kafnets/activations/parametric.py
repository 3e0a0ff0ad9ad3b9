"""Smooth activations with one or two trained numbers per layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import positive, within
from kafnets.activations.derivative_bounds import Turning
from kafnets.activations.pointwise import (
    SILU_FIRST_TURN,
    SILU_SECOND_TURN,
    silu_curvature,
    silu_slope,
    softplus_bounds,
)
from kafnets.ops.recompute import lean


class PSoftplus(Activation):
    """``log(1 + exp(|alpha| x)) / |alpha|``, a softplus of trained sharpness.

    Dai, Mahloujifar, Mittal, "Parameterizing activation functions for adversarial robustness", 2021 (arXiv
    2110.05626). The paper trains one alpha for the whole network, here all channels of a layer share one. The maximal
    curvature is ``|alpha| / 4``. Alpha enters by its absolute value, as in the authors' :class:`PSSiLU`, and must not
    become 0.

    Args:
        num_channels: channels of the input.
        alpha: initial alpha, from 1e-6 to 1e6, in 1 / (units of x).

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype, values >= 0; arithmetic in float32 at least. Parameter
        ``alpha`` ``(1,)``. NaN gives NaN; infinite x counts as 1e30.

    Raises:
        ValueError: if ``alpha`` is out of its range.

    Example:
        >>> PSoftplus(2)(torch.tensor([[-1.0, 2.0]])).detach()
        tensor([[0.3133, 2.1269]])
    """

    def __init__(self, num_channels: int, *, alpha: float = 1.0) -> None:
        super().__init__(num_channels)
        self.alpha = nn.Parameter(torch.tensor([positive("alpha", alpha, 1.0)]))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return lean(_psoftplus, self.check(x), self.alpha)

    def bounds(self) -> Turning:
        """Those of softplus with ``beta = |alpha|``."""
        return softplus_bounds(self.alpha.abs().expand(self.num_channels))


class PSSiLU(Activation):
    """``x (sigmoid(|alpha| x) - |beta|) / (1 - |beta|)``, a SiLU of trained sharpness, shifted up on the left.

    Dai, Mahloujifar, Mittal, "Parameterizing activation functions for adversarial robustness", 2021 (arXiv
    2110.05626); absolute values and initial values as in the authors' model in RobustBench. For large x it is x, for
    very negative x it is ``-|beta| x / (1 - |beta|)``: positive outputs for negative inputs. The paper trains one
    alpha and one beta for the whole network, here all channels of a layer share them.

    Args:
        num_channels: channels of the input.
        alpha: initial alpha, from 1e-6 to 1e6, in 1 / (units of x).
        beta: initial beta, from 1e-30 to 0.999; not 0, where ``|beta|`` has no gradient. Training must keep it below 1.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype; arithmetic in float32 at least. Parameters ``alpha`` and
        ``beta`` ``(1,)``. NaN gives NaN; infinite x counts as 1e30.

    Raises:
        ValueError: if ``alpha`` or ``beta`` is out of its range.

    Example:
        >>> PSSiLU(2, beta=0.2)(torch.tensor([[-1.0, 2.0]])).detach()
        tensor([[-0.0862,  1.7020]])
    """

    def __init__(self, num_channels: int, *, alpha: float = 1.0, beta: float = 1e-8) -> None:
        super().__init__(num_channels)
        if not 0 < beta < 1:
            raise ValueError(f"beta must be in (0, 1), got {beta!r}; the default is 1e-8")
        within("beta", beta, 1e-8, 1e-30, 0.999)
        self.alpha = nn.Parameter(torch.tensor([positive("alpha", alpha, 1.0)]))
        self.beta = nn.Parameter(torch.tensor([float(beta)]))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return lean(_pssilu, self.check(x), self.alpha, self.beta)

    def bounds(self) -> Turning:
        """With ``s(x) = x sigmoid(x)``: ``f' = (s'(|alpha| x) - |beta|) / (1 - |beta|)``, which turns where s' does."""
        alpha, beta = (p.detach().double().cpu().abs() for p in (self.alpha, self.beta))

        def slope(x: Tensor) -> Tensor:
            return (silu_slope(alpha * x) - beta) / (1 - beta)

        def curvature(x: Tensor) -> Tensor:
            return alpha * silu_curvature(alpha * x) / (1 - beta)

        turns = torch.tensor([[-SILU_SECOND_TURN, -SILU_FIRST_TURN, 0.0, SILU_FIRST_TURN, SILU_SECOND_TURN]]) / alpha
        turns = turns.expand(self.num_channels, -1)
        return Turning(slope, curvature, turns, turns)


def _psoftplus(x: Tensor, alpha: Tensor) -> Tensor:
    sharpness = alpha.abs()
    return F.softplus(sharpness * x) / sharpness


def _pssilu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    shift = beta.abs()
    return x * ((alpha.abs() * x).sigmoid() - shift) / (1 - shift)
