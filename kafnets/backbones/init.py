"""Initialisation of kernels and biases: one function per rule, applied to every kernel of a network."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from kafnets.activations.base import Activation

KernelRule = Callable[[Tensor], object]


def kernels(net: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """The convolutions and dense layers of a network, except inside activations, which initialise themselves."""
    for child in net.children():
        if isinstance(child, nn.Conv2d | nn.Linear):
            yield child
        elif not isinstance(child, Activation):
            yield from kernels(child)


def initialise(net: nn.Module, rule: KernelRule) -> None:
    """Set every kernel in place by ``rule`` and every bias to zero."""
    for layer in kernels(net):
        rule(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def he_uniform(kernel: Tensor) -> None:
    """``U(-b, b)`` with ``b = sqrt(6 / fan_in)``, in place. He et al. (2015), arXiv 1502.01852, section 2.2."""
    nn.init.kaiming_uniform_(kernel, nonlinearity="relu")


def he_normal(kernel: Tensor) -> None:
    """``N(0, 2 / fan_in)``, in place. He et al. (2015), arXiv 1502.01852, section 2.2."""
    nn.init.kaiming_normal_(kernel, nonlinearity="relu")


def glorot_uniform(kernel: Tensor) -> None:
    """``U(-b, b)`` with ``b = sqrt(6 / (fan_in + fan_out))``, in place. Glorot and Bengio (2010), AISTATS."""
    nn.init.xavier_uniform_(kernel)
