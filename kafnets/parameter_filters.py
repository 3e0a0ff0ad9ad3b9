"""Functions that choose parameters of a network: those to decay, or those that AWP moves."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


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
