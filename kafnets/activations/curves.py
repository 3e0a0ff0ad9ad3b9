"""The values and slopes of an activation at given points."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHUNK = 1 << 22  # values evaluated at once


@dataclass(frozen=True)
class Curve:
    """The data of a plot, float64 on the CPU.

    Attributes:
        x: ``(M,)``, increasing.
        values: ``(C, M)``, ``f_c(x)``.
        slopes: ``(C, M)``, ``f_c'(x)``.
    """

    x: Tensor
    values: Tensor
    slopes: Tensor


def curve(layer: nn.Module, num_channels: int, x: Tensor) -> Curve:
    """Evaluate a copy of a pointwise layer and its slope at points ``(M,)``, in eval mode, in float64 on the CPU."""
    # under inference_mode(False), so that the slope can be computed inside a caller's inference mode too
    with torch.inference_mode(False), torch.enable_grad():
        twin = copy.deepcopy(layer).cpu().double().eval()
        pieces = [_with_slope(twin, num_channels, piece) for piece in x.split(max(1, CHUNK // num_channels))]
    values, slopes = (torch.cat(parts).T.contiguous() for parts in zip(*pieces, strict=True))
    return Curve(x, values, slopes)


def _with_slope(twin: nn.Module, num_channels: int, x: Tensor) -> tuple[Tensor, Tensor]:
    points = x.clone()[:, None].repeat(1, num_channels).requires_grad_()
    values = twin.forward(points)  # not twin(points), which would run the hooks that were copied with the layer
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), slopes
