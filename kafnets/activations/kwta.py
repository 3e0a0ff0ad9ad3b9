"""k-winners-take-all as a layer."""

import math

import torch
from torch import Tensor

from kafnets import ops
from kafnets.activations.base import Activation
from kafnets.activations.derivative_bounds import EVERYWHERE, Interval, check_interval
from kafnets.functional import check_ratio


class KWTA(Activation):
    """Per sample, keeps the ``k = ceil(ratio * C * H * W)`` largest activations of the layer and zeroes the rest.

    Xiao, Zhong, Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020 (arXiv 1905.10510), eq. 3 (and
    section 3.1 for training with a falling ratio). Ties with the k-th largest are kept.

    The state dict holds the current ``ratio`` and the one the layer was built with: a schedule changes the ratio during
    training, and a trained network needs the last ratio of its training. Loading takes the stored current ratio if this
    layer was built with the same ratio as the stored one. A layer built with another ratio keeps that one, because the
    user gave it explicitly (``--model.net.activation.ratio=0.1`` with a checkpoint).

    Args:
        num_channels: channels of the input.
        ratio: the fraction kept, in (0, 1]; may be assigned later.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1], also when assigned.
        TypeError: from :meth:`curvature`, :meth:`gaussian_moments` and :meth:`plot`, which need a pointwise activation.

    Example:
        >>> KWTA(4, ratio=0.5)(torch.tensor([[3.0, -1.0, 2.0, 0.5]]))
        tensor([[3., 0., 2., 0.]])
    """

    pointwise = False

    def __init__(self, num_channels: int, *, ratio: float = 0.2) -> None:
        super().__init__(num_channels)
        self.ratio = ratio
        self.built_ratio = self.ratio

    @property
    def ratio(self) -> float:
        """The fraction kept, in (0, 1]."""
        return self._ratio

    @ratio.setter
    def ratio(self, ratio: float) -> None:
        self._ratio = check_ratio(ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        return ops.kwta(self.check(x), self.ratio)

    def lipschitz(self, interval: Interval = EVERYWHERE) -> Tensor:
        """Infinite for every channel and interval: a value that drops out of the k largest jumps to 0."""
        check_interval(interval)
        return torch.full((self.num_channels,), math.inf, dtype=torch.float64, device="cpu")

    def get_extra_state(self) -> Tensor:
        """The current ratio and the one the layer was built with, float64 ``(2,)``."""
        return torch.tensor([self.ratio, self.built_ratio], dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take the stored current ratio if both layers were built with the same ratio."""
        current, built = state.tolist()
        if built == self.built_ratio:
            self.ratio = current

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, ratio={self.ratio:g}"
