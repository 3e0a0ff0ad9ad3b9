"""Signs that a network has collapsed: it predicts one class, or inputs of kernel activations are not covered."""

import math

import torch
from torch import Tensor, nn

from kafnets.activations.kernel_activation import KernelActivation
from kafnets.analysis.activation_shapes import eval_mode, pre_activations, trainable_activations
from kafnets.attacks.queries import ask


@torch.no_grad()
def only_class(net: nn.Module, images: Tensor) -> int | None:
    """The class that ``net``, in evaluation mode, predicts for every image ``(N, C, H, W)``; None if there are several.

    Example:
        >>> only_class(lambda x: x, torch.tensor([[0.0, 1.0], [2.0, 3.0]])), only_class(lambda x: x, torch.eye(2))
        (1, None)
    """
    classes = ask(net, images).argmax(1).unique()
    return int(classes) if len(classes) == 1 else None


@torch.no_grad()
def outside_dictionary(net: nn.Module, images: Tensor) -> dict[str, float]:
    """For each layer that is a sum over kernels, the share of its inputs outside its dictionary, in [0, 1].

    There the sum falls to 0, and so does its gradient. Periodic kernels and the KAF inside a ResidualKAF are left out.

    Args:
        net: any network; it is left as it was.
        images: ``(N, C, H, W)``.

    Example:
        >>> from kafnets.activations import KAF
        >>> outside_dictionary(nn.Sequential(KAF(1, boundary=2.0)), torch.tensor([[0.0], [1.0], [5.0], [-3.0]]))
        {'0': 0.5}
    """
    layers = {name: layer for name, layer in trainable_activations(net).items() if isinstance(layer, KernelActivation)}
    if not layers:
        return {}
    with eval_mode(net):
        samples = pre_activations(net, dict(layers), images)
    found = {}
    for name, sample in samples.items():
        parts = layers[name].parts()
        if all(part.kernel.period == math.inf for part in parts) and len(sample):
            low = min(float(part.dictionary.min()) for part in parts)
            high = max(float(part.dictionary.max()) for part in parts)
            found[name] = float(((sample < low) | (sample > high)).float().mean())
    return found
