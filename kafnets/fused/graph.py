"""Traces a network and replaces its convolutions, with all that can be folded into them, by chains in C++."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from kafnets.activations import ReLU
from kafnets.backbones.base import Normalize
from kafnets.backbones.same_conv import SameConv2d
from kafnets.fused.chain import ConvChain
from kafnets.fused.step import ConvStep

ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass
class FoldedConv:
    """A convolution of a traced network and what is folded into it: normalisation, batch norms, an addition, ReLU."""

    conv: nn.Conv2d
    nodes: list[fx.Node]
    normalize: Normalize | None = None
    norms: list[nn.BatchNorm2d] = field(default_factory=list)
    addition: fx.Node | None = None
    norms_before_addition: int = 0
    relu: bool = False

    @property
    def source(self) -> Any:
        """The node that the first of these nodes reads."""
        return self.nodes[0].args[0]

    @property
    def skip(self) -> fx.Node | None:
        """The node that is added; read from the graph every time, because other nodes of the graph get replaced."""
        if self.addition is None:
            return None
        before = self.nodes[self.nodes.index(self.addition) - 1]
        return next(node for node in self.addition.all_input_nodes if node is not before)

    @property
    def end(self) -> fx.Node:
        """The node whose value these nodes compute together."""
        return self.nodes[-1]

    @torch.no_grad()
    def step(self, number: dict[fx.Node, int]) -> ConvStep:
        """The step of a chain that computes these nodes; ``number`` gives the number of each value that it reads."""
        shift = None if self.conv.bias is None else self.conv.bias.detach().clone()
        skip, scale = self.skip, None
        filters, mean = self.conv.weight.detach().clone(), None
        if self.normalize:
            filters, mean = filters / self.normalize.std, self.normalize.mean.flatten().clone()
        skip_scale: Tensor | None = None
        for at, norm in enumerate(self.norms):
            assert norm.running_var is not None and norm.running_mean is not None
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            offset = norm.bias - norm.running_mean * factor
            scale = factor if scale is None else scale * factor
            shift = offset if shift is None else torch.addcmul(offset, shift, factor)
            if skip is not None and at >= self.norms_before_addition:
                skip_scale = factor if skip_scale is None else skip_scale * factor
        return ConvStep(
            source=number[self.source],
            filters=filters,
            stride=self.conv.stride[0],
            padding=_padding(self.conv),
            scale=scale,
            shift=shift,
            mean=mean,
            skip=None if skip is None else number[skip],
            skip_scale=skip_scale,
            relu=self.relu,
        )


def fuse(net: nn.Module) -> tuple[list[FoldedConv], fx.GraphModule]:
    """The network as a graph in which chains compute the convolutions, and what was folded.

    Raises:
        ValueError: if a module that contains convolutions has hooks.
        Exception: of many types, from ``torch.fx``, if ``net.forward`` cannot be traced.
    """
    if any(hooks_of(module) and not _is_leaf(module) for module in net.modules()):
        raise ValueError("it has hooks")
    traced = fx.GraphModule(net, _Tracer().trace(net))
    for node in list(traced.graph.nodes):
        module = _module(traced, node)
        if type(module) in (nn.Identity, nn.Dropout) and not hooks_of(module):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    convs = _folded_convs(traced)
    runs = list(_runs(traced.graph, {conv.end: conv for conv in convs}))
    for number, run in enumerate(runs):
        _replace(traced, run, f"chain{number}")
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return convs, traced


def hooks_of(module: nn.Module) -> list[Any]:
    """The forward and backward hooks of a module."""
    every = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return [hook for hooks in every if hooks for hook in hooks.values()]


class _Tracer(fx.Tracer):
    """Traces into modules that contain convolutions; all other modules stay calls of modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m)


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) or not any(isinstance(part, nn.Conv2d) for part in module.modules())


class ChainModule(nn.Module):
    """A chain as a module, as graphs need it."""

    def __init__(self, chain: ConvChain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output of the chain."""
        return self.chain(*inputs)


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    return conv.edges if isinstance(conv, SameConv2d) else (int(conv.padding[0]), int(conv.padding[0]))


def _module(traced: fx.GraphModule, node: fx.Node) -> Any:
    """The module that a node calls; None if it calls none."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _folded_convs(traced: fx.GraphModule) -> list[FoldedConv]:
    """The convolutions that a chain can compute, each with all that can be folded into it."""
    found: list[FoldedConv] = []
    taken: set[fx.Node] = set()
    for node in traced.graph.nodes:
        module = _module(traced, node)
        if not _is_supported(module):
            continue
        candidates = [FoldedConv(module, [node])]
        if normalize := _normalize(traced, node.args[0], module.in_channels):
            candidates.insert(0, FoldedConv(module, [node.args[0], node], normalize))
        if conv := next((conv for conv in candidates if conv.step({conv.source: 0}).suits), None):
            while (follower := _only_user(conv.end)) and follower not in taken and _fold(traced, conv, follower):
                conv.nodes.append(follower)
            taken.update(conv.nodes)
            found.append(conv)
    return found


def _normalize(traced: fx.GraphModule, node: fx.Node, channels: int) -> Normalize | None:
    """The :class:`Normalize` that a node calls, if it has so many channels and only one other node reads it."""
    module = _module(traced, node)
    if type(module) is not Normalize or hooks_of(module) or len(node.args) != 1 or not _only_user(node):
        return None
    return module if module.mean.shape == module.std.shape == (1, channels, 1, 1) else None


def _is_supported(conv: Any) -> bool:
    """Whether it is a convolution that :class:`ConvStep` can express; subclasses may compute anything else."""
    return (
        type(conv) in (nn.Conv2d, SameConv2d)
        and not hooks_of(conv)
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.stride[0] == conv.stride[1]
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _fold(traced: fx.GraphModule, conv: FoldedConv, node: fx.Node) -> bool:
    """Fold the node that follows into a convolution. Returns False if that is impossible."""
    module = _module(traced, node)
    if conv.relu or (module and hooks_of(module)):
        return False
    if type(module) is nn.BatchNorm2d and module.affine and module.running_var is not None:
        conv.norms.append(module)
    elif type(module) in (nn.ReLU, ReLU):
        conv.relu = True
    elif node.target in ADDITIONS and conv.addition is None and len(node.all_input_nodes) == len(node.args) == 2:
        if node.kwargs:
            return False
        conv.addition, conv.norms_before_addition = node, len(conv.norms)
    else:
        return False
    return True


def _runs(graph: fx.Graph, convs: dict[fx.Node, FoldedConv]) -> Iterator[list[FoldedConv]]:
    """Runs of convolutions that become chains: only the end of a run is read from outside it."""
    run: list[FoldedConv] = []
    within = {node for conv in convs.values() for node in conv.nodes[:-1]}
    for node in graph.nodes:
        conv = convs.get(node)
        ends = [other.end for other in run]
        if conv is None and node not in within and any(end in ends for end in node.all_input_nodes):
            yield from _cut(run)
            run = []
        if conv:
            run.append(conv)
    yield from _cut(run)


def _cut(run: list[FoldedConv]) -> Iterator[list[FoldedConv]]:
    """Cut a run after every convolution whose output is read from outside."""
    own = {node for conv in run for node in conv.nodes}
    for at, conv in enumerate(run[:-1], start=1):
        if any(user not in own for user in conv.end.users):
            yield from _cut(run[:at])
            yield from _cut(run[at:])
            return
    if run:
        yield run


def _replace(traced: fx.GraphModule, run: list[FoldedConv], name: str) -> None:
    """Replace a run by a chain."""
    ends = [conv.end for conv in run]
    wanted = [node for conv in run for node in (conv.source, conv.skip) if node is not None and node not in ends]
    inputs = list(dict.fromkeys(wanted))
    number = {node: at for at, node in enumerate([*inputs, *ends])}
    traced.add_submodule(name, ChainModule(ConvChain(len(inputs), [conv.step(number) for conv in run])))
    with traced.graph.inserting_after(ends[-1]):
        chain = traced.graph.call_module(name, tuple(inputs))
    ends[-1].replace_all_uses_with(chain)
    for node in reversed([node for conv in run for node in conv.nodes]):
        traced.graph.erase_node(node)
