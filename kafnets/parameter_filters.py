"""Functions that choose parameters of a network: those to decay, or those that AWP moves."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from kafnets.described import in_words

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def chosen(choose: Callable[[nn.Module], Iterable[Tensor]], net: nn.Module) -> list[Tensor]:
    """Return the tensors that a filter chooses.

    Raises:
        ValueError: if ``choose`` is no such filter.

    Example:
        >>> chosen(nn.ReLU(), nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: ReLU() is no function of a network that returns its parameters, such as ...parameter_filters.kernels
    """
    found: list[Any] | None
    try:
        found = list(choose(net))
    except TypeError:
        found = None
    if found is None or not all(isinstance(tensor, Tensor) for tensor in found):
        raise ValueError(
            f"{in_words(choose)} is no function of a network that returns its parameters, such as "
            "kafnets.parameter_filters.kernels"
        )
    return found


def all_parameters(net: nn.Module) -> Iterable[Tensor]:
    """Return every parameter, as most code of fast adversarial training does."""
    return net.parameters()


def kernels(net: nn.Module) -> Iterator[Tensor]:
    """Return the weights of convolutional and dense layers: no biases, normalisation, activations (thesis ResNets)."""
    return (module.weight for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def dense_kernels(net: nn.Module) -> Iterator[Tensor]:
    """Return the weights of dense layers only (the thesis's VGG)."""
    return (module.weight for module in net.modules() if isinstance(module, nn.Linear))


def kernels_and_activations(net: nn.Module) -> Iterator[Tensor]:
    """Return the weights of convolutional and dense layers and all parameters of activations."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module.weight
        elif not isinstance(module, _NORMS):
            yield from module.parameters(recurse=False)
