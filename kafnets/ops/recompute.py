"""Elementwise functions that keep their inputs for backward and nothing else."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kafnets.ops.dispatch import is_looked_into, must_be_plain
from kafnets.ops.needs_grad import will_run
from kafnets.ops.reference import gradients
from kafnets.ops.tiling import CPU_CHUNK

Elementwise = Callable[..., Tensor]

FAR = 1e30  # larger values count as this one, so that infinity times a slope of 0 is 0
GPU_CHUNK = 1 << 25  # on a GPU only the memory limits it


def lean(function: Elementwise, x: Tensor, *parameters: Tensor) -> Tensor:
    """``function(x, *parameters)``, saving the arguments and no intermediate result.

    Backward calls the function again on each piece of the batch and differentiates it there, so that neither pass holds
    more than one piece's intermediate results. It is differentiable as often as the function. Arithmetic is in float32
    at least; the result has the dtype and memory layout of ``x``. Values beyond 1e30, infinity too, count as 1e30; NaN
    stays NaN.

    Args:
        function: elementwise in ``x``, so that the batch may be cut; without randomness.
        x: ``(N, ...)``, floating point.
        parameters: tensors that broadcast with ``x``, or tables that the function looks up.

    Returns:
        The shape of ``x``.

    Example:
        >>> x = torch.tensor([[3.0]], requires_grad=True)
        >>> torch.autograd.grad(lean(lambda x, a: a * x**2, x, torch.tensor(2.0)).sum(), x)
        (tensor([[12.]]),)
    """
    if torch.compiler.is_compiling() or must_be_plain():  # the compiler fuses and recomputes by itself
        return _plain(function, x, *parameters)
    return _Lean.apply(function, x, *parameters)


class _Lean(torch.autograd.Function):
    """See :func:`lean`."""

    @staticmethod
    def forward(ctx: Any, function: Elementwise, x: Tensor, *parameters: Tensor) -> Tensor:
        """Compute and keep the arguments."""
        ctx.save_for_backward(x, *parameters)
        ctx.function = function
        out = torch.empty_like(x)
        for piece, result in zip(_pieces(x), _pieces(out), strict=True):
            result.copy_(function(_prepared(piece), *parameters))
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate in pieces, or at once with a graph of the derivative where one is needed."""
        differentiate = _plainly if is_looked_into() else _with_graph if torch.is_grad_enabled() else _in_pieces
        return None, *differentiate(ctx.function, ctx.saved_tensors, cotangent, _needed(ctx))


def _plain(function: Elementwise, x: Tensor, *parameters: Tensor) -> Tensor:
    return function(_prepared(x), *parameters).to(x.dtype)


def _plainly(
    function: Elementwise, inputs: tuple[Tensor, ...], cotangent: Tensor, need: list[bool]
) -> list[Tensor | None]:
    wanted = [i for i, needed in enumerate(need) if needed]
    found = iter(gradients(partial(_plain, function), inputs, cotangent, wanted))
    return [next(found) if needed else None for needed in need]


def _with_graph(
    function: Elementwise, inputs: tuple[Tensor, ...], cotangent: Tensor, need: list[bool]
) -> list[Tensor | None]:
    # this derivative ends at the aliases, while its graph continues to the inputs
    aliases = [t.view_as(t) for t in inputs]
    out = function(_prepared(aliases[0]), *aliases[1:]).to(cotangent.dtype)
    return _gradients(out, aliases, cotangent, need, create_graph=True)


def _in_pieces(
    function: Elementwise, inputs: tuple[Tensor, ...], cotangent: Tensor, need: list[bool]
) -> list[Tensor | None]:
    x, *parameters = (t.detach() for t in inputs)
    leaves = [p.requires_grad_(needed) for p, needed in zip(parameters, need[1:], strict=True)]
    x_grad = torch.empty_like(x) if need[0] else None
    sums: list[Tensor | None] = [None] * len(leaves)
    targets = _pieces(x if x_grad is None else x_grad)
    for piece, part, target in zip(_pieces(x), _pieces(cotangent, like=x), targets, strict=True):
        piece = piece.detach().requires_grad_(need[0])
        with torch.enable_grad():
            out = function(_prepared(piece), *leaves)
        found, *others = _gradients(out, [piece, *leaves], part.to(out.dtype), need, create_graph=False)
        if found is not None:
            target.copy_(found)
        sums = [a if b is None else b if a is None else a + b for a, b in zip(sums, others, strict=True)]
    return [x_grad, *sums]


def _gradients(
    out: Tensor, inputs: list[Tensor], cotangent: Tensor, need: list[bool], *, create_graph: bool
) -> list[Tensor | None]:
    """The gradient for each input that needs one, None for the others."""
    wanted = [t for t, needed in zip(inputs, need, strict=True) if needed]
    found = iter(torch.autograd.grad(out, wanted, cotangent, create_graph=create_graph, materialize_grads=True))
    return [next(found) if needed else None for needed in need]


def _pieces(x: Tensor, *, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Views of parts of the batch, of at most about a chunk of values each."""
    chunk = CPU_CHUNK if x.device.type == "cpu" else GPU_CHUNK
    like = x if like is None else like
    return x.split(max(1, chunk * max(1, len(like)) // max(1, like.numel())))


def _prepared(x: Tensor) -> Tensor:
    """Half precision as float32, infinities as finite numbers."""
    # a clamp whose backward is four times faster
    return F.hardtanh(x if x.dtype == torch.float64 else x.float(), -FAR, FAR)


def _needed(ctx: Any) -> list[bool]:
    """Which inputs' gradients this backward pass will use; see :func:`kafnets.ops.needs_grad.will_run`."""
    nodes = [node for node, _ in ctx.next_functions]
    return [need and will_run(node) for need, node in zip(ctx.needs_input_grad[1:], nodes, strict=True)]
