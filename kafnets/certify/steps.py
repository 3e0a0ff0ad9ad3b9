"""A network as a list of steps, which bounds pass one after the other."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from kafnets.activations import Activation
from kafnets.backbones.base import Normalize, PixelMean
from kafnets.backbones.resnet import PadShortcut
from kafnets.backbones.same_conv import SameConv2d

ADDITIONS = (operator.add, operator.iadd, torch.add)
# a subclass may compute anything else, except that of Activation, whose bounds are its own
LAYERS = (
    *(nn.Conv2d, SameConv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, Normalize, PixelMean, PadShortcut),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout),
)


class Addition(nn.Module):
    """The sum of two values, as a module."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Add."""
        return first + second


@dataclass(frozen=True)
class Step:
    """One layer of a network.

    Attributes:
        name: where it is in the network, such as ``block1.conv_a``.
        module: what computes it.
        inputs: the numbers of the values that it reads: 0 is the images, ``i + 1`` what step i gave.
    """

    name: str
    module: nn.Module
    inputs: tuple[int, ...]


def is_known(module: nn.Module) -> bool:
    """Whether bounds know what a module computes."""
    return type(module) in LAYERS or isinstance(module, Activation)


def steps_of(net: Any) -> list[Step]:
    """The layers of a network in the order in which they are computed; the last gives its output.

    Args:
        net: a module whose ``forward`` applies convolutions, dense layers, batch norm, activations, pooling, dropout
            and additions, as all of :mod:`kafnets.backbones` do. One that was compiled is read as it was before.

    Raises:
        ValueError: if there is no sound bound for a part of it, which is named, or it has forward hooks, which could
            compute anything.

    Example:
        >>> from kafnets.activations import ReLU
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), ReLU(3))
        >>> [(step.name, step.inputs) for step in steps_of(net)]
        [('0', (0,)), ('1', (1,)), ('2', (2,))]
    """
    net = getattr(net, "_orig_mod", net)
    if not isinstance(net, nn.Module):
        raise ValueError(f"bounds need the network itself, a torch.nn.Module, got {type(net).__name__}")
    hooked = [name or type(net).__name__ for name, part in net.named_modules() if _hooks(part)]
    if hooked:
        raise ValueError(f"bounds of a network with forward hooks are unknown; remove those of {hooked[0]}")
    root = nn.Sequential(net) if is_known(net) else net
    try:
        graph = _Tracer().trace(root)
    except Exception as error:  # Python code that cannot be traced raises a dozen types of errors
        raise ValueError(f"bounds of {type(net).__name__} are unknown: torch.fx can't trace it ({error})") from error
    return list(_steps(graph, root, type(net).__name__))


@torch.no_grad()
def check_steps(net: nn.Module, steps: list[Step], x: Tensor) -> None:
    """Raise ``ValueError`` unless the steps compute what the network does, in evaluation mode, on some images.

    It finds a ``forward`` that does something else for other images, or outside the modules.
    """
    values = [x]
    for step in steps:
        values.append(step.module(*(values[i] for i in step.inputs)))
    expected = net(x.clone())
    if expected.shape != values[-1].shape or not torch.allclose(expected, values[-1], rtol=1e-6, atol=1e-9):
        raise ValueError(f"bounds of {type(net).__name__} are unknown: it does not compute what its layers say")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_known(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        # functional_call puts other tensors in their place, which steps, read later, would not have
        if any(p is not None and not isinstance(p, nn.Parameter) for p in m._parameters.values()):
            raise ValueError("its weights are replaced while it runs, as AWP does")
        return super().call_module(m, forward, args, kwargs)


def _hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _steps(graph: fx.Graph, root: nn.Module, owner: str) -> Any:
    number: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and not number:
            number[node] = 0
        elif node.op == "output":
            if len(node.all_input_nodes) != 1 or number[node.all_input_nodes[0]] != len(number) - 1:
                raise ValueError(f"bounds need a network that returns what its last layer gives; {owner} does not")
        else:
            module = _module(node, root)
            if module is None or not all(isinstance(one, fx.Node) for one in node.args[:2]) or node.kwargs:
                raise ValueError(
                    f"no sound bound is known for {node.target} in {owner}; known are "
                    f"{', '.join(sorted(layer.__name__ for layer in LAYERS))}, activations of kafnets, and additions"
                )
            yield Step(str(node.target if node.op == "call_module" else node.name), module, _read(node, number))
            number[node] = len(number)


def _read(node: fx.Node, number: dict[fx.Node, int]) -> tuple[int, ...]:
    return tuple(number[one] for one in node.args if isinstance(one, fx.Node))


def _module(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """The module of a node, or one that computes the same; None if no bound knows it."""
    if node.op == "call_module":
        found = root.get_submodule(str(node.target))
        return found if is_known(found) and len(node.args) == 1 else None
    if node.op == "call_function" and node.target in ADDITIONS and len(node.args) == 2:
        return Addition()
    return None
