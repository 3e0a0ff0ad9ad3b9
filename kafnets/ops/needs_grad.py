"""Tells which gradients a backward pass will use: an attack needs those of its images only and computes no others."""

from typing import Any

import torch


def will_run(node: Any) -> bool:
    """Whether the current backward pass continues into a node; True where PyTorch cannot tell.

    ``ctx.needs_input_grad`` only says which inputs require gradients. Under ``torch.autograd.grad(loss, x)``, as in
    every step of an attack, the gradients of the parameters would be computed and thrown away. The autograd engine
    knows, for the node that each tensor input came from (``ctx.next_functions``), whether it will run.
    """
    ask = getattr(torch._C, "_will_engine_execute_node", None)
    if ask is None or torch.compiler.is_compiling():
        return True
    try:
        return ask(node)
    except RuntimeError:  # a leaf whose gradient torch.autograd.grad was called for
        return True
