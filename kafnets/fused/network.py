"""The same network with fewer and faster passes over memory, for attacks on a CPU."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kafnets.fused.graph import FoldedConv, fuse, hooks_of
from kafnets.fused.native.library import same_memory
from kafnets.ops import engine_for

_log = logging.getLogger("kafnets")
_building = threading.RLock()  # tracing a network changes what calls of modules do, in all threads
AGREEMENT = 1e-3  # of the largest logit: rounding errors are a few 1e-6, a wrongly traced network is far off


class Fused(nn.Module):
    """The same network, up to four times as fast on a CPU, for attacks, which evaluate it thousands of times.

    Batch norm, additions and ReLU are folded into the convolution before them, :class:`Normalize` into the one after
    it, and runs of convolutions are computed by :class:`kafnets.fused.chain.ConvChain`; everything else is computed by
    the network's own modules. Logits and gradients differ from those of ``net`` by rounding, a few 1e-6 of the largest
    (also where one is exactly zero). A gradient differs by more where rounding changes the sign of the input of a
    ReLU. So judge what an attack finds by ``net`` itself.

    ``net`` itself computes the logits where fusing does not apply: on a GPU, in another dtype, in training mode, under
    autocast, without a C++ compiler. It does so too if its ``forward`` cannot be traced or is random, if a module that
    contains convolutions has hooks (hooks of single layers work as usual), or if logits or gradients disagree on the
    first image.

    Parameters, buffers, modules and all other attributes are those of ``net``. Only the images receive gradients.
    Every change of what is folded is noticed, except within :meth:`held_still`. ``net`` must compute the same at every
    call: decisions of its ``forward`` in Python are made once.

    Args:
        net: any backbone, or another module of convolutions.

    Shapes:
        Those of ``net``: ``(N, C, H, W)`` to ``(N, classes)``.

    Example:
        >>> from kafnets.activations import ReLU
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
        self._form: _FusedForm | None = None
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
                    self._form = _FusedForm(self.net, x[:1])
                self._compared = True
        form = self._form
        if form.convs and x.shape[1:] not in form.shapes:
            form.run_net(x)
        return form.graph(x)

    @contextmanager
    def held_still(self) -> Iterator[None]:
        """Promise that the network does not change within: it is checked for changes once, not at every call."""
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
            and engine_for(x.device) == "native"
            and not torch.is_autocast_enabled("cpu")
        )

    def __getattr__(self, name: str) -> Any:
        """Attributes that are not found here are looked up in the network."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # `copy` and `pickle` look for methods of this class, not of the network's
                raise
            return getattr(super().__getattr__("net"), name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies are built anew, because compiled plans contain addresses."""
        return Fused, (self.net,)


class _FusedForm:
    """The fused graph of a network, and copies of all that it was built from.

    Where the network cannot be fused, ``graph`` is the network itself and ``convs`` is empty.
    """

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.net, self.shapes = net, set[torch.Size]()
        once, again = self.run_net(x), self.run_net(x)
        self.convs: list[FoldedConv] = []
        self.graph: nn.Module = net
        try:
            if not torch.equal(once.nan_to_num(), again.nan_to_num()):
                raise ValueError("it answers at random")
            with torch.inference_mode(False):
                convs, graph = fuse(net)
                if _agree(graph, net, x):
                    self.convs, self.graph = convs, graph
                else:
                    _log.warning("%s is not fused: its fused form does not agree with it", type(net).__name__)
        except Exception as error:  # Python code that cannot be traced raises a dozen types of errors
            _log.info("%s is not fused: %s", type(net).__name__, error)
        self.modules = list(net.modules())
        self.hooks = [hooks_of(module) for module in self.modules]
        self.constants = [_copy(value) for value in _constants(self.convs)]

    @torch.no_grad()
    def run_net(self, x: Tensor) -> Tensor:
        """The network's own logits of the first image; for images of the wrong shape, it raises its own error."""
        logits: Tensor = self.net(x[:1].clone())  # a network may write into its input
        self.shapes.add(x.shape[1:])
        return logits

    def is_of(self, modules: list[nn.Module]) -> bool:
        """Whether the network, whose modules these are, has not changed."""
        if modules != self.modules or [hooks_of(module) for module in modules] != self.hooks:
            return False
        return all(map(_same, self.constants, _constants(self.convs)))


def _constants(convs: list[FoldedConv]) -> list[Tensor | float | None]:
    """All tensors and numbers of the network that are folded into chains."""
    found: list[Tensor | float | None] = []
    for conv in convs:
        found += [conv.conv._parameters["weight"], conv.conv._parameters["bias"]]
        if conv.normalize:
            found += [conv.normalize.mean, conv.normalize.std]
        for norm in conv.norms:
            parameters, buffers = norm._parameters, norm._buffers  # attributes of modules are slow
            found += [parameters["weight"], parameters["bias"], buffers["running_mean"], buffers["running_var"]]
            found.append(norm.eps)
    return found


def _copy(value: Tensor | float | None) -> Tensor | float | None:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(before: Tensor | float | None, now: Tensor | float | None) -> bool:
    """Compares values, not version counters: writes through ``.data`` and fused optimizers do not count versions."""
    if not (isinstance(before, Tensor) and isinstance(now, Tensor)):
        return before is now or before == now
    if (before.dtype, before.device, before.shape) != (now.dtype, now.device, now.shape):
        return False
    return same_memory(before, now) if before.stride() == now.stride() else torch.equal(before, now)


def _agree(graph: nn.Module, net: nn.Module, x: Tensor) -> bool:
    """Whether the logits are equal, and the gradients parallel, up to rounding."""
    with torch.enable_grad():
        found, expected = (_logits_and_gradient(one, x.detach().clone().requires_grad_(True)) for one in (graph, net))
    close = AGREEMENT * expected[0].abs().max().item()
    if not torch.allclose(found[0], expected[0], rtol=0, atol=close, equal_nan=True):
        return False
    # not element by element: rounding changes the sign of the input of some ReLUs
    ours, theirs = found[1].flatten().nan_to_num(), expected[1].flatten().nan_to_num()
    size = theirs.abs().max()  # cosine_similarity takes gradients of 1e-30 for zero
    return torch.equal(ours, theirs) or bool(torch.cosine_similarity(ours / size, theirs / size, 0) > 0.99)


def _logits_and_gradient(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    logits = net(x.clone())
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]
