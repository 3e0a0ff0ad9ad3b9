"""Boxes: an interval for each value of a layer, and how each layer passes them on."""

from dataclasses import dataclass
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations import KWTA, Activation
from kafnets.backbones.base import Normalize, PixelMean
from kafnets.backbones.resnet import PadShortcut
from kafnets.certify.extremes import Extremes
from kafnets.certify.spectral import edges_of
from kafnets.functional import winner_count

# A sum of n products in float64 is off by at most n 1.2e-16 of the sum of their sizes, and n is below 80,000 here
ROUNDING = 1e-11


@dataclass(frozen=True)
class Box:
    """Every value of a layer lies in ``[low, high]``.

    Attributes:
        low, high: ``(N, ...)``.
        sample: a point of the box that passes the network as an image does, in its mode: training needs it, because
            batch norm takes its statistics from it; None for bounds of a network in evaluation mode.
    """

    low: Tensor
    high: Tensor
    sample: Tensor | None = None

    @property
    def centre(self) -> Tensor:
        """The middle."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width."""
        return (self.high - self.low) / 2

    def widened(self) -> "Box":
        """The same box with room for the rounding errors of float64, of the layer before and the one after."""
        room = ROUNDING * torch.maximum(self.low.abs(), self.high.abs()) + torch.finfo(self.low.dtype).tiny
        return Box(self.low - room, self.high + room, self.sample)


@singledispatch
def passed(module: nn.Module, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    """The lowest and the highest values that a layer can give for values in a box.

    Args:
        module: the layer.
        box: of its input.
        found: the extremes, of an activation that has some.
    """
    raise TypeError(f"no interval bound is known for {type(module).__name__}")


@passed.register(nn.MaxPool2d)
@passed.register(nn.AvgPool2d)
@passed.register(PixelMean)
@passed.register(PadShortcut)
@passed.register(nn.Flatten)
@passed.register(Normalize)
def _(module: nn.Module, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    """Layers that never fall where their input rises."""
    return module.forward(box.low), module.forward(box.high)


@passed.register(nn.Identity)
@passed.register(nn.Dropout)
def _(module: nn.Module, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    """Bounds are always those without dropout."""
    return box.low, box.high


@passed.register(nn.Linear)
def _(module: nn.Linear, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    centre = F.linear(box.centre, module.weight, module.bias)
    return _around(centre, F.linear(box.radius, module.weight.abs()))


@passed.register(nn.Conv2d)
def _(module: nn.Conv2d, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    rows, columns = edges_of(module)

    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = F.pad(x, (*columns, *rows))
        return F.conv2d(x, weight, bias, module.stride, 0, module.dilation, module.groups)

    return _around(apply(box.centre, module.weight, module.bias), apply(box.radius, module.weight.abs(), None))


@passed.register(nn.BatchNorm1d)
@passed.register(nn.BatchNorm2d)
def _(module: nn.BatchNorm2d, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    """An affine map; in training mode with the statistics of the sample."""
    scale, shift = affine_of(module, box.sample)
    shape = (1, -1, *[1] * (box.low.dim() - 2))
    return _around(box.centre * scale.view(shape) + shift.view(shape), box.radius * scale.abs().view(shape))


@passed.register(Activation)
def _(module: Activation, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    if found is None:
        raise TypeError(f"the extremes of {module.label} are missing")
    return found.range(module, box.low, box.high)


@passed.register(KWTA)
def _(module: KWTA, box: Box, found: Extremes | None) -> tuple[Tensor, Tensor]:
    """A value is kept or becomes 0: kept if at most k - 1 others are larger, dropped if k others are.

    That is certain where it holds for the least or the largest values that the boxes allow.
    """
    low, high = box.low.flatten(1), box.high.flatten(1)
    k = winner_count(module.ratio, low.shape[1])
    if k == low.shape[1]:
        return box.low, box.high
    last, next_one = high.topk(k + 1, dim=1).values[:, -2:].unsqueeze(2).unbind(1)
    surely = low >= torch.where(high >= last, next_one, last)  # the k-th largest high end of the others
    never = high < low.topk(k, dim=1).values[:, -1:]
    zero = torch.zeros_like(low)
    bottom = torch.where(surely, low, torch.minimum(low, zero)).masked_fill(never, 0)
    top = torch.where(surely, high, torch.maximum(high, zero)).masked_fill(never, 0)
    return bottom.view_as(box.low), top.view_as(box.high)


def added(first: Box, second: Box) -> tuple[Tensor, Tensor]:
    """The bounds of a sum."""
    return first.low + second.low, first.high + second.high


def affine_of(norm: nn.BatchNorm1d | nn.BatchNorm2d, sample: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, ``(C,)``, of a batch norm: of its running statistics, or those of a sample.

    Raises:
        ValueError: if it keeps no running statistics, so that an output depends on the rest of the batch.
    """
    if norm.training and sample is not None:
        over = [axis for axis in range(sample.dim()) if axis != 1]
        variance, mean = torch.var_mean(sample, over, correction=0)
    elif norm.running_var is not None and norm.running_mean is not None:
        variance, mean = norm.running_var, norm.running_mean
    else:
        raise ValueError("no bound is known for a batch norm without running statistics: images depend on each other")
    scale = torch.rsqrt(variance + norm.eps)
    if not norm.affine:
        return scale, -mean * scale
    return norm.weight * scale, norm.bias - mean * norm.weight * scale


def _around(centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    return centre - radius, centre + radius
