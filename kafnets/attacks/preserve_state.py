"""A context that restores a network after it has been attacked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

_Buffers: TypeAlias = dict[str, Tensor | None]


def _kept_buffers(module: nn.Module) -> tuple[_Buffers, _Buffers, list[Tensor | None]]:
    """A module's own buffers: the dictionary that holds them, a copy of it, and copies of their values."""
    buffers = module._buffers
    return buffers, dict(buffers), [None if tensor is None else tensor.clone() for tensor in buffers.values()]


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
    # a module may write into a buffer, or put another tensor in its place
    kept = [] if eval_mode or not any(modes) else [_kept_buffers(module) for module in modules]
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
        for buffers, tensors, values in kept:
            for tensor, value in zip(tensors.values(), values, strict=True):
                if tensor is not None and value is not None:
                    # .data: autograd must not see a write into what an earlier forward pass saved
                    tensor.data.copy_(value)
            buffers.update(tensors)
