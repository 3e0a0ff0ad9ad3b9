"""How far a Lipschitz bound is above what the network does: a lower bound of the same constant, layer by layer."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kafnets.certify.lipschitz import LayerBound, lipschitz_bound
from kafnets.certify.steps import Step, steps_of
from kafnets.keyed_random import image_keys, normal
from kafnets.threat import per_image


class LayerGap(NamedTuple):
    """The two bounds of the network from the images up to one layer.

    Attributes:
        layer: the upper bound and what it is made of.
        lower: the largest spectral norm of the Jacobian that was found.
        ratio: ``layer.upper / lower``.
    """

    layer: LayerBound
    lower: float
    ratio: float


def lipschitz_lower_bound(net: Any, x: Tensor, *, rounds: int = 10, ascents: int = 5, step: float = 0.05) -> float:
    """A lower bound of the Lipschitz constant in L2 on images: the largest norm of the Jacobian at any point visited.

    From each image, a power iteration finds the largest singular value of the Jacobian, and the image then moves along
    the sign of that value's gradient, or along a random one where it is 0, as in networks of straight pieces.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.
        x: images ``(N, C, H, W)`` in [0, 1] to start from.
        rounds: of the power iteration, >= 1.
        ascents: number of points visited from each image, >= 1.
        step: distance between them in each pixel.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> round(lipschitz_lower_bound(net, torch.rand(4, 1, 1, 2)), 3)
        4.0
    """
    with torch.inference_mode(False):
        steps = steps_of(_frozen(net))
        return _largest_slope(steps, len(steps) - 1, x.detach().clone().double(), rounds, ascents, step)


def layer_gaps(net: Any, x: Tensor, *, rounds: int = 10) -> list[LayerGap]:
    """Upper and lower bound of the network up to each of its layers.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.
        x: images ``(N, C, H, W)``, at which the Jacobian is taken.
        rounds: of the power iteration, >= 1.
    """
    channels, height, width = x.shape[1:]
    upper = lipschitz_bound(net, (channels, height, width))
    with torch.inference_mode(False):
        steps = steps_of(_frozen(net))
        images = x.detach().clone().double()
        lower = [_largest_slope(steps, row.step, images, rounds, 1, 0.0) for row in upper.layers]
    return [
        LayerGap(row, low, row.upper / low if low else float("inf"))
        for row, low in zip(upper.layers, lower, strict=True)
    ]


def _frozen(net: Any) -> nn.Module:
    return copy.deepcopy(getattr(net, "_orig_mod", net)).double().eval().requires_grad_(False)


def _largest_slope(steps: list[Step], last: int, x: Tensor, rounds: int, ascents: int, length: float) -> float:
    """The largest singular value of the Jacobian of the first steps, up to number ``last``, found from any image."""
    best = 0.0
    with torch.enable_grad():
        for ascent in range(ascents):
            x = x.detach().requires_grad_()
            out = _value_of(steps, last, x)
            direction = normal(image_keys(torch.arange(len(x)), 0), out.shape[1:]).to(out)
            for _ in range(rounds):
                direction = direction / _size(direction, direction)
                (back,) = torch.autograd.grad((out * direction).sum(), x, retain_graph=True)
                best = max(best, float(_size(back, back).max()))
                left = direction.detach().requires_grad_()
                # the derivative of <J^T u, v> with respect to u is J v
                (pulled,) = torch.autograd.grad((out * left).sum(), x, create_graph=True)
                (direction,) = torch.autograd.grad((pulled * (back / _size(back, back))).sum(), left, retain_graph=True)
            if ascent + 1 < ascents:
                left = (direction / _size(direction, direction)).detach()
                (pulled,) = torch.autograd.grad((out * left).sum(), x, create_graph=True)
                x = (x.detach() + length * _uphill(pulled, x, ascent)).clamp(0, 1)
    return best


def _uphill(pulled: Tensor, x: Tensor, ascent: int) -> Tensor:
    """The sign of the gradient of the size of J^T u; a random one where it is 0, as in networks of straight pieces."""
    uphill = torch.zeros_like(x)
    if pulled.requires_grad:
        (uphill,) = torch.autograd.grad(pulled.square().sum(), x, allow_unused=True, materialize_grads=True)
    anywhere = normal(image_keys(torch.arange(len(x)), ascent + 1), x.shape[1:]).to(x)
    return torch.where(uphill == 0, anywhere, uphill).sign()


def _value_of(steps: list[Step], last: int, x: Tensor) -> Tensor:
    values = [x]
    for step in steps[: last + 1]:
        values.append(step.module(*(values[i] for i in step.inputs)))
    return values[-1]


def _size(x: Tensor, like: Tensor) -> Tensor:
    return per_image(x.flatten(1).norm(dim=1).clamp_min(1e-300), like)
