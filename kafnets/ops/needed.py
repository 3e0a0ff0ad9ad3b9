"""What a backward pass really needs, so that an attack, which differentiates by its images alone, pays for no more."""

from typing import Any

import torch


def will_run(node: Any) -> bool:
    """Whether the current backward pass goes on into a node; True where PyTorch cannot tell.

    ``ctx.needs_input_grad`` only says which inputs require gradients. Under ``torch.autograd.grad(loss, x)``, as in
    every step of an attack, the gradients of the parameters would be computed and thrown away. The autograd engine
    knows, for the node that each tensor input came from (``ctx.next_functions``), whether it will run.
    """
    ask = getattr(torch._C, "_will_engine_execute_node", None)
    if ask is None or torch.compiler.is_compiling():
        return True
    try:
        return ask(node)
    except RuntimeError:  # a leaf whose gradient was asked for by torch.autograd.grad
        return True
