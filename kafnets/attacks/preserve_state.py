"""A context that restores a network after it has been attacked."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

_Buffers: TypeAlias = dict[str, Tensor | None]


class _Kept:
    """Some modules' own buffers and their values, which :meth:`restore` puts back."""

    def __init__(self, modules: list[nn.Module]) -> None:
        # a module may write into a buffer, or put another tensor in its place
        self._places: list[tuple[_Buffers, _Buffers]] = [(m._buffers, dict(m._buffers)) for m in modules if m._buffers]
        tensors = [tensor for _, held in self._places for tensor in held.values() if tensor is not None]
        alike: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            alike[tensor.device, tensor.dtype].append(tensor)
        # one copy for all tensors of a device and dtype
        self._values = [(group, [torch.empty_like(tensor) for tensor in group]) for group in alike.values()]
        with torch.no_grad():
            for group, values in self._values:
                torch._foreach_copy_(values, group)

    def restore(self) -> None:
        for group, values in self._values:
            # .data: autograd must not see a write into what an earlier forward pass saved
            torch._foreach_copy_([tensor.data for tensor in group], values)
        for buffers, held in self._places:
            buffers.update(held)


@contextmanager
def preserve_state(net: Callable[[Tensor], Tensor], *, eval_mode: bool) -> Iterator[None]:
    """Run the body, which may call ``net``, and restore the network afterwards, also after an exception.

    Restored are the mode of every module and every buffer that a module in training mode may have written (batch-norm
    statistics, step counts); in evaluation mode networks write none. A graph built through ``net`` before can still be
    differentiated. Gradients can be taken inside, even from Lightning's inference mode; those of parameters are not
    restored (:mod:`kafnets.attacks` never computes them). In evaluation mode, a network that has a ``held_still()``
    context enters it: nothing changes the network inside.

    Args:
        net: the network; for a plain function nothing needs to be restored.
        eval_mode: True puts every module into evaluation mode inside. False leaves each module in its mode: in a
            training step, batch norm then uses the statistics of the batch and dropout is active.
    """
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    modes = [module.training for module in modules]
    kept = _Kept([] if eval_mode or not any(modes) else modules)
    try:
        if eval_mode:
            for module in modules:
                module.training = False
        held = getattr(net, "held_still", nullcontext) if eval_mode else nullcontext
        with held(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        # set one by one: nn.Module.train() would also change modules that are frozen in evaluation mode
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        kept.restore()
