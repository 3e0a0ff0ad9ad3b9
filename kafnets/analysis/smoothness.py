"""How steep and how curved activations are where their inputs lie."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kafnets.activations.base import Activation
from kafnets.activations.curves import curve

BAND = (4.0, 10.0)  # of max |f''|, in which arXiv 2603.23860 finds the best robustness


@dataclass(frozen=True)
class Smoothness:
    """The derivatives of one layer over the interval of its inputs, float64 on the CPU.

    Attributes:
        slope: ``(C,)``, an upper bound of ``sup |f_c'|``; see :meth:`~kafnets.activations.Activation.lipschitz`.
        curvature: ``(C,)``, an upper bound of ``sup |f_c''|``, infinite at a kink; see
            :meth:`~kafnets.activations.Activation.curvature`.
        squared_curvature: ``E f''(z)^2`` under the density of the inputs, infinite where an input may lie at a kink.
    """

    slope: Tensor
    curvature: Tensor
    squared_curvature: float

    @property
    def share_in_band(self) -> float:
        """Share of the channels whose largest ``|f''|`` lies between 4 and 10."""
        return float(((self.curvature >= BAND[0]) & (self.curvature <= BAND[1])).double().mean())


def smoothness(layer: Activation, edges: Tensor, counts: Tensor) -> Smoothness | None:
    """Bound the derivatives of a layer over the range of its inputs, and average ``f''^2`` over their density.

    ``E f''^2`` takes for each bin the mean of f'' over the bin, ``(f'(right) - f'(left)) / width``.

    Args:
        layer: the activation.
        edges: ``(B + 1,)``, increasing and evenly spaced, in units of the pre-activation.
        counts: ``(C, B)``, the numbers of each channel's inputs in the bins.

    Returns:
        None if the layer is not pointwise, or does not bound its derivatives.

    Example:
        >>> from kafnets.activations import ReLU
        >>> found = smoothness(ReLU(1), torch.tensor([1.0, 2.0, 3.0]), torch.ones(1, 2))
        >>> found.slope, found.curvature, found.squared_curvature
        (tensor([1.], dtype=torch.float64), tensor([0.], dtype=torch.float64), 0.0)
    """
    if not layer.pointwise:
        return None
    interval = (float(edges[0]), float(edges[-1]))
    try:
        slope, curvature = layer.lipschitz(interval), layer.curvature(interval)
    except NotImplementedError:
        return None
    bent = ~curvature.isfinite() & (counts.sum(1) > 0)
    if bent.any():
        return Smoothness(slope, curvature, math.inf)
    with torch.device("cpu"):
        slopes = curve(layer, layer.num_channels, edges.double().cpu()).slopes
    second = slopes.diff(dim=1) / edges.diff().double().cpu()
    return Smoothness(slope, curvature, float((counts * second.square()).sum() / counts.sum()))
