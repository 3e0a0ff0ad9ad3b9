"""Maxout as a layer that keeps the number of channels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.checks import count
from kafnets.activations.pointwise import per_channel
from kafnets.ops.recompute import lean


class Maxout(Activation):
    """``f(x)_c = max_j (W_j x + b_j)_c``: the largest of k trained affine maps of the channels at one position.

    Goodfellow, Warde-Farley, Mirza, Courville, Bengio, "Maxout networks", ICML 2013 (arXiv 1302.4389), eq. 1. The maps
    are 1 x 1 convolutions from C to C channels. One group is the paper's unit, which reads all channels; with
    ``groups = num_channels`` each channel has a convex piecewise linear function of its own.

    All channels start as the maximum of the k tangents of softplus with slopes 0, 1 / (k - 1), ..., 1, without mixing:
    ``max_j (s_j x + H(s_j))`` with ``H(s) = -s log s - (1 - s) log(1 - s)``. For k = 2 that is ReLU, for which the
    usual initialisations of weights are made; every piece is in use from the start.

    Args:
        num_channels: channels of the input and the output.
        pieces: k, >= 2.
        groups: number of groups of channels, mixed only within a group; must divide ``num_channels``.

    Shapes:
        ``(N, C, *spatial)`` to the same, any floating dtype. Parameters ``weight`` ``(k, C, C / groups)`` and ``bias``
        ``(k, C)``. Where channels mix, arithmetic is that of a convolution in the dtype of x (under autocast in
        autocast's), and a NaN or an infinite value spreads over its group; otherwise it is in float32 at least, and
        infinite x counts as 1e30.

    Raises:
        ValueError: if ``pieces`` is below 2 or ``groups`` does not divide ``num_channels``.
        TypeError: from :meth:`lipschitz`, :meth:`curvature`, :meth:`gaussian_moments`, :meth:`plot`, if channels mix.

    Example:
        >>> Maxout(2)(torch.tensor([[-1.0, 2.0]])).detach()
        tensor([[0., 2.]])
    """

    def __init__(self, num_channels: int, *, pieces: int = 2, groups: int = 1) -> None:
        super().__init__(num_channels)
        slopes = torch.linspace(0, 1, count("pieces", pieces, 2, 2))
        if num_channels % count("groups", groups, 1, 1):
            raise ValueError(f"groups must divide num_channels={num_channels}, got {groups!r}; the default is 1")
        width = num_channels // groups
        self.groups, self.pointwise = groups, width == 1
        own = torch.eye(width).repeat(groups, 1)
        self.weight = nn.Parameter(slopes[:, None, None] * own)
        entropy = torch.special.entr(slopes) + torch.special.entr(1 - slopes)
        self.bias = nn.Parameter(entropy[:, None].repeat(1, num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(N, C, *spatial)``."""
        self.check(x)
        if self.pointwise:
            return lean(_upper_envelope, x, per_channel(self.weight.squeeze(-1), x), per_channel(self.bias, x))
        image = x if x.dim() == 4 else x.reshape(*x.shape[:2], math.prod(x.shape[2:]), 1)
        weight, bias = self.weight.to(x.dtype)[..., None, None], self.bias.to(x.dtype)
        highest, *others = (F.conv2d(image, w, b, groups=self.groups) for w, b in zip(weight, bias, strict=True))
        for other in others:
            highest = torch.maximum(highest, other)
        return highest.to(x.dtype) if x.dim() == 4 else highest.to(x.dtype).reshape(x.shape)

    def bounds(self) -> "UpperEnvelope":
        """Convex: the steepest slopes are those at the ends of the interval."""
        return UpperEnvelope(self.weight.squeeze(-1).T, self.bias.T)

    def extra_repr(self) -> str:
        """Name the settings."""
        return f"{super().extra_repr()}, pieces={len(self.weight)}, groups={self.groups}"


class UpperEnvelope:
    """The bounds of ``max_j (slopes[c, j] x + offsets[c, j])``: its slope grows with x.

    Lines within a relative 1e-9 of the highest at an end of the interval count as active there, which can only raise a
    bound.

    Args:
        slopes: ``(C, k)``.
        offsets: ``(C, k)``.
    """

    def __init__(self, slopes: Tensor, offsets: Tensor) -> None:
        self.slopes, self.offsets = (t.detach().double().cpu() for t in (slopes, offsets))

    def slope(self, low: float, high: float) -> Tensor:
        """The larger absolute value of the least slope, at ``low``, and the largest, at ``high``."""
        return torch.maximum(self._active(low)[0].abs(), self._active(high)[1].abs())

    def curvature(self, low: float, high: float) -> Tensor:
        """Infinite if the slope changes between the ends, 0 otherwise."""
        bent = self._active(low)[0] != self._active(high)[1]
        return torch.zeros(len(bent), dtype=torch.float64).masked_fill(bent, torch.inf)

    def _active(self, x: float) -> tuple[Tensor, Tensor]:
        """The least and the largest slope of the lines that are highest at ``x``."""
        if abs(x) == torch.inf:
            outermost = self.slopes.amin(1) if x < 0 else self.slopes.amax(1)
            return outermost, outermost
        values = self.slopes * x + self.offsets
        size = (self.slopes * x).abs() + self.offsets.abs()
        lower = values < values.amax(1, keepdim=True) - 1e-9 * size.amax(1, keepdim=True)
        return self.slopes.masked_fill(lower, torch.inf).amin(1), self.slopes.masked_fill(lower, -torch.inf).amax(1)


def _upper_envelope(x: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    highest, *others = (slope * x + offset for slope, offset in zip(slopes, offsets, strict=True))
    for other in others:
        # as torch.maximum, but with a backward pass that is ten times faster
        highest = torch.lerp(highest, other, (other > highest).to(x.dtype))
    return highest
