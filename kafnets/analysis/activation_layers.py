"""The activation layers of a network, and what they receive."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kafnets.activations.base import Activation


def activation_layers(net: nn.Module) -> dict[str, Activation]:
    """Every activation of a network by its name; the parts of an activation are not listed by themselves.

    Example:
        >>> from kafnets.activations import KAF, ReLU, ResidualKAF
        >>> list(activation_layers(nn.Sequential(ReLU(2), ResidualKAF(2))))
        ['0', '1']
    """
    found = {name: module for name, module in net.named_modules() if isinstance(module, Activation)}
    parts = {part for module in found.values() for part in module.modules() if part is not module}
    return {name: module for name, module in found.items() if module not in parts}


@contextmanager
def recorded_inputs(
    layers: dict[str, Activation], keep: Callable[[Tensor], Tensor] = Tensor.detach
) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that holds the input of each layer once the network has been called.

    A layer that a network calls several times has its inputs joined along the batch. The names are in the order of the
    calls.

    Args:
        layers: those to record, by name.
        keep: what to keep of an input.
    """
    found: dict[str, Tensor] = {}

    def recorder(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = keep(inputs[0])
            found[name] = torch.cat([found[name], x]) if name in found else x

        return hook

    handles = [layer.register_forward_pre_hook(recorder(name)) for name, layer in layers.items()]
    try:
        # a compiled graph does not call hooks that were added after its compilation
        with torch.compiler.set_stance("force_eager"):
            yield found
    finally:
        for handle in handles:
            handle.remove()
