"""Which parameters an optimizer's weight decay applies to."""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn


def all_parameters(net: nn.Module) -> Iterable[Tensor]:
    """Return every parameter, as most code of fast adversarial training does."""
    return net.parameters()


def kernels(net: nn.Module) -> Iterator[Tensor]:
    """Return the weights of convolutional and dense layers: no biases, normalisation, activations (thesis ResNets)."""
    return (module.weight for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def dense_kernels(net: nn.Module) -> Iterator[Tensor]:
    """Return the weights of dense layers only (the thesis's VGG)."""
    return (module.weight for module in net.modules() if isinstance(module, nn.Linear))
