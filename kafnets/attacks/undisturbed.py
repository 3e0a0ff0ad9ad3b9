"""Borrow a network for an attack and hand it back exactly as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(net: Callable[[Tensor], Tensor], *, eval_mode: bool) -> Iterator[None]:
    """Let the body run forward passes of ``net`` that leave no trace.

    The mode of every module and every buffer (batch-norm statistics, step counts) are restored on the way out, also
    after an exception. Gradients can be taken inside, even from Lightning's inference mode; those of parameters are
    the caller's business (:mod:`kafnets.attacks` never asks for them).

    Args:
        net: the network; a plain function is left alone.
        eval_mode: True puts every module into evaluation mode inside. False leaves each module in the mode it is
            found in: in a training step, batch norm then uses the statistics of the batch and dropout is active.
    """
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    modes = [module.training for module in modules]
    moved = [] if eval_mode or not any(modes) else [(b, b.clone()) for b in net.buffers()]  # type: ignore[attr-defined]
    try:
        if eval_mode:
            for module in modules:
                module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        # set one by one: nn.Module.train() would also thaw what its owner has frozen
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        with torch.no_grad():
            for buffer, before in moved:
                buffer.copy_(before)
