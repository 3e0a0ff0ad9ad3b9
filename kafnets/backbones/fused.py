"""A network as attacks use it: evaluated on a CPU, with fewer and faster passes over memory."""

import logging
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from kafnets.activations import ReLU
from kafnets.backbones.base import Normalize
from kafnets.backbones.same_conv import SameConv2d
from kafnets.ops import engine
from kafnets.ops.conv import ConvChain, ConvStep
from kafnets.ops.native.conv import same_memory

_log = logging.getLogger("kafnets")
_building = threading.RLock()  # while a network is traced, calls of modules are not what they are otherwise
ADDITIONS = (operator.add, operator.iadd, torch.add)
AGREEMENT = 1e-3  # of the largest logit: rounding is a few 1e-6, a misread network is not


class Fused(nn.Module):
    """The same network, up to four times as fast on a CPU: what an attack asks thousands of times.

    Batch norm, additions and ReLU are folded into the convolutions before them, :class:`Normalize` into the one after
    it, and runs of convolutions go through :class:`kafnets.ops.conv.ConvChain`; the rest are the network's own modules.
    Logits and gradients differ by rounding, a few 1e-6 of the largest (where one is exactly zero, too), and a gradient
    by more where rounding decides on which side of a ReLU's kink a unit lies; so judge what an attack finds by ``net``
    itself. Where fusing does not apply (on a GPU, in another dtype, in training mode, under autocast, without a C++
    compiler), ``net`` answers; so it does if its ``forward`` can't be traced or answers at random, if it has hooks
    (those of activations and other leaves are as good as ever), or if logits or gradients disagree on the first image.

    Parameters, buffers and modules are those of ``net``, other attributes too. Gradients reach the images alone. Any
    change of what is folded is noticed, but for those within :meth:`held_still`. ``net`` must compute the same at every
    call: what its ``forward`` decides in Python is decided once.

    Args:
        net: any backbone, or another module of convolutions.

    Shapes:
        Those of ``net``; ``(N, C, H, W)`` in, ``(N, classes)`` out.

    Example:
        >>> from kafnets.backbones import KafResNet
        >>> net = KafResNet(depth=8, activation=ReLU, image_size=8).eval()
        >>> x = torch.rand(2, 3, 8, 8)
        >>> torch.allclose(Fused(net)(x), net(x), atol=1e-5)
        True
    """

    net: nn.Module

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = net.training
        self._form: _Form | None = None
        self._holders, self._compared = 0, False

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        if not self._applies(x):
            return self.net(x)
        if self._form is None or not (self._holders and self._compared):
            modules = list(self.net.modules())
            if any(module.training for module in modules):
                return self.net(x)
            with _building:
                if self._form is None or not self._form.is_of(modules):
                    self._form = _Form(self.net, x[:1])
                self._compared = True
        form = self._form
        if form.links and x.shape[1:] not in form.shapes:
            form.ask(x)
        return form.graph(x)

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """Say that the network does not change within: it is compared with what it was once, not at every call."""
        with _building:
            self._compared = self._compared and self._holders > 0
            self._holders += 1
        try:
            yield
        finally:
            with _building:
                self._holders -= 1

    def _applies(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and len(x) > 0
            and engine(x.device) == "native"
            and not torch.is_autocast_enabled("cpu")
        )

    def __getattr__(self, name: str) -> Any:
        """What is not found here is the network's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # how to be copied, and the like, is not
                raise
            return getattr(super().__getattr__("net"), name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is made anew: compiled plans hold addresses."""
        return Fused, (self.net,)


class _Form:
    """What became of a network as it stood at a moment; the network itself where nothing could be made of it."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net, self.shapes = net, set[torch.Size]()
        once, again = self.ask(x), self.ask(x)
        self.links: list[_Link] = []
        self.graph: nn.Module = net
        try:
            if not torch.equal(once.nan_to_num(), again.nan_to_num()):
                raise ValueError("it answers at random")
            with torch.inference_mode(False):
                links, graph = _fuse(net)
                if _agree(graph, net, x):
                    self.links, self.graph = links, graph
                else:
                    _log.warning("%s is not fused: its fused form does not agree with it", type(net).__name__)
        except Exception as error:  # what Python code can't be traced shows in a dozen ways
            _log.info("%s is not fused: %s", type(net).__name__, error)
        self.modules = list(net.modules())
        self.hooks = [_hooks(module) for module in self.modules]
        self.folded = [_kept(value) for value in _folded(self.links)]

    @torch.no_grad()
    def ask(self, x: Tensor) -> Tensor:
        """The network's own answer to the first image: what is wrong with such a shape is said here, once."""
        logits: Tensor = self.net(x[:1])
        self.shapes.add(x.shape[1:])
        return logits

    def is_of(self, modules: list[nn.Module]) -> bool:
        """Whether a network with these modules is as it was."""
        if modules != self.modules or [_hooks(module) for module in modules] != self.hooks:
            return False
        return all(map(_same, self.folded, _folded(self.links)))


def _hooks(module: nn.Module) -> list[Any]:
    every = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return [hook for hooks in every if hooks for hook in hooks.values()]


def _folded(links: list["_Link"]) -> list[Tensor | float | None]:
    """All that the constants of a form are made of."""
    found: list[Tensor | float | None] = []
    for link in links:
        found += [link.conv._parameters["weight"], link.conv._parameters["bias"]]
        if link.normalize:
            found += [link.normalize.mean, link.normalize.std]
        for norm in link.norms:
            parameters, buffers = norm._parameters, norm._buffers  # attributes of modules are slow
            found += [parameters["weight"], parameters["bias"], buffers["running_mean"], buffers["running_var"]]
            found.append(norm.eps)
    return found


def _kept(value: Tensor | float | None) -> Tensor | float | None:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(before: Tensor | float | None, now: Tensor | float | None) -> bool:
    """By value: neither writes through ``.data`` nor those of fused optimizers count as versions."""
    if not (isinstance(before, Tensor) and isinstance(now, Tensor)):
        return before is now or before == now
    if (before.dtype, before.device, before.shape) != (now.dtype, now.device, now.shape):
        return False
    return same_memory(before, now) if before.stride() == now.stride() else torch.equal(before, now)


def _agree(graph: nn.Module, net: nn.Module, x: Tensor) -> bool:
    """Whether logits are the same, and gradients point the same way, but for rounding."""
    with torch.enable_grad():
        found, expected = (_logits_and_gradient(one, x.detach().clone().requires_grad_(True)) for one in (graph, net))
    close = AGREEMENT * expected[0].abs().max().item()
    if not torch.allclose(found[0], expected[0], rtol=0, atol=close, equal_nan=True):
        return False
    # not number by number: rounding puts some on the other side of a kink
    ours, theirs = found[1].flatten().nan_to_num(), expected[1].flatten().nan_to_num()
    size = theirs.abs().max()  # gradients of 1e-30 are none to the similarity otherwise
    return torch.equal(ours, theirs) or bool(torch.cosine_similarity(ours / size, theirs / size, 0) > 0.99)


def _logits_and_gradient(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    logits = net(x)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]


@dataclass
class _Link:
    """A convolution in a traced network and what is folded into it: normalisation, batch norms, one addition, ReLU."""

    conv: nn.Conv2d
    nodes: list[fx.Node]
    normalize: Normalize | None = None
    norms: list[nn.BatchNorm2d] = field(default_factory=list)
    addition: fx.Node | None = None
    norms_before_addition: int = 0
    relu: bool = False

    @property
    def source(self) -> Any:
        return self.nodes[0].args[0]

    @property
    def skip(self) -> fx.Node | None:
        """What is added; asked of the graph every time, whose other nodes come to be replaced."""
        if self.addition is None:
            return None
        before = self.nodes[self.nodes.index(self.addition) - 1]
        return next(node for node in self.addition.all_input_nodes if node is not before)

    @property
    def end(self) -> fx.Node:
        return self.nodes[-1]

    @torch.no_grad()
    def step(self, number: dict[fx.Node, int]) -> ConvStep:
        """What it computes, from values with these numbers."""
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


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    return conv.edges if isinstance(conv, SameConv2d) else (int(conv.padding[0]), int(conv.padding[0]))


class _Tracer(fx.Tracer):
    """Looks into what holds convolutions, and at nothing else."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_leaf(m)


def _is_leaf(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) or not any(isinstance(part, nn.Conv2d) for part in module.modules())


class _Chain(nn.Module):
    def __init__(self, chain: ConvChain) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.chain(*inputs)


def _fuse(net: nn.Module) -> tuple[list[_Link], fx.GraphModule]:
    if any(_hooks(module) and not _is_leaf(module) for module in net.modules()):
        raise ValueError("it has hooks")
    traced = fx.GraphModule(net, _Tracer().trace(net))
    for node in list(traced.graph.nodes):
        module = _module(traced, node)
        if type(module) in (nn.Identity, nn.Dropout) and not _hooks(module):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    links = _links(traced)
    runs = list(_runs(traced.graph, {link.end: link for link in links}))
    for number, run in enumerate(runs):
        _replace(traced, run, f"chain{number}")
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return links, traced


def _module(traced: fx.GraphModule, node: fx.Node) -> Any:
    """The module that a node calls."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _links(traced: fx.GraphModule) -> list[_Link]:
    """The convolutions that a chain computes, each with all that can be folded into it."""
    links: list[_Link] = []
    taken: set[fx.Node] = set()
    for node in traced.graph.nodes:
        conv = _module(traced, node)
        if not _is_understood(conv):
            continue
        begun = [_Link(conv, [node])]
        if normalize := _normalize(traced, node.args[0], conv.in_channels):
            begun.insert(0, _Link(conv, [node.args[0], node], normalize))
        if link := next((link for link in begun if link.step({link.source: 0}).suits), None):
            while (follower := _only_user(link.end)) and follower not in taken and _fold(traced, link, follower):
                link.nodes.append(follower)
            taken.update(link.nodes)
            links.append(link)
    return links


def _normalize(traced: fx.GraphModule, node: fx.Node, channels: int) -> Normalize | None:
    """The normalisation of so many channels that a node is, if only one other reads it."""
    module = _module(traced, node)
    if type(module) is not Normalize or _hooks(module) or len(node.args) != 1 or not _only_user(node):
        return None
    return module if module.mean.shape == module.std.shape == (1, channels, 1, 1) else None


def _is_understood(conv: Any) -> bool:
    """Whether it is a convolution, and one that :class:`ConvStep` can say; subclasses may do anything."""
    return (
        type(conv) in (nn.Conv2d, SameConv2d)
        and not _hooks(conv)
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.stride[0] == conv.stride[1]
        and not isinstance(conv.padding, str)
        and conv.padding[0] == conv.padding[1]
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _fold(traced: fx.GraphModule, link: _Link, node: fx.Node) -> bool:
    """Take into a link what follows it; whether that can be done."""
    module = _module(traced, node)
    if link.relu or (module and _hooks(module)):
        return False
    if type(module) is nn.BatchNorm2d and module.affine and module.running_var is not None:
        link.norms.append(module)
    elif type(module) in (nn.ReLU, ReLU):
        link.relu = True
    elif node.target in ADDITIONS and link.addition is None and len(node.all_input_nodes) == len(node.args) == 2:
        if node.kwargs:
            return False
        link.addition, link.norms_before_addition = node, len(link.norms)
    else:
        return False
    return True


def _runs(graph: fx.Graph, links: dict[fx.Node, _Link]) -> Iterator[list[_Link]]:
    """Links in runs that become chains: of what lies within one only its end is needed outside."""
    run: list[_Link] = []
    within = {node for link in links.values() for node in link.nodes[:-1]}
    for node in graph.nodes:
        link = links.get(node)
        ends = [other.end for other in run]
        if link is None and node not in within and any(end in ends for end in node.all_input_nodes):
            yield from _cut(run)
            run = []
        if link:
            run.append(link)
    yield from _cut(run)


def _cut(run: list[_Link]) -> Iterator[list[_Link]]:
    """Cut behind every link whose output is needed outside of its piece."""
    own = {node for link in run for node in link.nodes}
    for at, link in enumerate(run[:-1], start=1):
        if any(user not in own for user in link.end.users):
            yield from _cut(run[:at])
            yield from _cut(run[at:])
            return
    if run:
        yield run


def _replace(traced: fx.GraphModule, run: list[_Link], name: str) -> None:
    """Put a chain in the place of a run."""
    ends = [link.end for link in run]
    wanted = [node for link in run for node in (link.source, link.skip) if node is not None and node not in ends]
    inputs = list(dict.fromkeys(wanted))
    number = {node: at for at, node in enumerate([*inputs, *ends])}
    traced.add_submodule(name, _Chain(ConvChain(len(inputs), [link.step(number) for link in run])))
    with traced.graph.inserting_after(ends[-1]):
        chain = traced.graph.call_module(name, tuple(inputs))
    ends[-1].replace_all_uses_with(chain)
    for node in reversed([node for link in run for node in link.nodes]):
        traced.graph.erase_node(node)
