"""How far training has moved a learned activation from the shape it began with."""

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation
from kafnets.activations.curves import curve
from kafnets.analysis.activation_layers import activation_layers


def drift(layer: Activation, start: Activation, edges: Tensor, counts: Tensor) -> float:
    """``sqrt(E (f(z) - f_0(z))^2)`` under the density of a layer's inputs, over all channels.

    Args:
        layer: the trained activation, pointwise.
        start: the same before training.
        edges: ``(B + 1,)``, increasing, in units of the pre-activation.
        counts: ``(C, B)``, the numbers of each channel's inputs in the bins.

    Example:
        >>> from kafnets.activations import PReLU
        >>> layer, start = PReLU(1), PReLU(1)
        >>> _ = nn.init.constant_(layer.weight, 0.75), nn.init.constant_(start.weight, 0.25)
        >>> drift(layer, start, torch.tensor([-3.0, -1.0, 1.0, 3.0]), torch.tensor([[1.0, 0.0, 0.0]]))
        1.0
    """
    middles = ((edges[1:] + edges[:-1]) / 2).double().cpu()
    with torch.device("cpu"):
        now, before = (curve(each, layer.num_channels, middles).values for each in (layer, start))
    return float(((counts * (now - before).square()).sum() / counts.sum()).sqrt())


def known_starts(first: nn.Module, second: nn.Module) -> dict[str, Activation]:
    """The activations that two fresh networks of the same settings, built with other seeds, have in common.

    Their start does not depend on random numbers, such as the one of a KAF that is fitted to a target, so it is known
    for every network of these settings.

    Args:
        first, second: built alike, before training.
    """
    others = activation_layers(second)
    return {
        name: layer
        for name, layer in activation_layers(first).items()
        if layer.pointwise and layer.num_parameters and _same(layer, others[name])
    }


def _same(first: Activation, second: Activation) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
