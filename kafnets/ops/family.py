"""Gaussian sums with derivatives of every order, by a family that is closed under differentiation.

With ``t_i = x - d_i`` and ``k_i = exp(-gamma t_i^2)`` (d and gamma may differ per channel c), the trilinear form

    Phi(v, x, W) = sum_{n,c,l} v[n,c,l] sum_{p,i} W[p,c,i] t_i^p k_i

has two partial derivatives that are its own building blocks,

    dPhi/dv = S(x, W) = sum_{p,i} W[p,c,i] t_i^p k_i        :class:`Weighted` gives v * S(x, W)
    dPhi/dW = R(v, x)[p,c,i] = sum_{n,l} v t_i^p k_i         :class:`Moments`

and, since ``d(t^p k)/dt = p t^(p-1) k - 2 gamma t^(p+1) k``, three that are the same blocks at other weights:

    dPhi/dx     =  v * S(x, W')      with W'[p] = (p+1) W[p+1] - 2 gamma W[p-1]   (one power more than W)
    dPhi/dd_i   = -sum_p W'[p,:,i] R[p,:,i]
    dPhi/dgamma = -sum_{p,i} W[p,:,i] R[p+2,:,i]

A cotangent a of ``v * S(x, W)`` asks for the derivatives of Phi(a v, x, W), a cotangent B of R for those of
Phi(v, x, B). Both backwards are therefore the one function :func:`_derivatives`, written in terms of the two blocks.
Saved for backward: x, v and the small tensors.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from kafnets.ops.chunks import Rows, empty_dense, has_channels_last
from kafnets.ops.direct import Direct
from kafnets.ops.grid import Grid, Recurrence, plan


class Engine(Protocol):
    """Computes the two blocks, without gradients."""

    def weighted(self, x: Rows, v: Rows | None, weights: Tensor, out: Rows) -> None:
        """Write ``v * S(x, W)`` to ``out``."""

    def moments(self, x: Rows, v: Rows, powers: int) -> Tensor:
        """``R`` for the powers 0 .. ``powers`` - 1."""


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor has it, otherwise float32: half precision is for storage only."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _engine(x: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None, powers: int, limit: int) -> Engine:
    dtype = arithmetic_dtype(x, dictionary)
    if grid is not None and powers <= limit and (cut := plan(grid, dtype)) is not None:
        return Recurrence(grid, cut, dtype)
    return Direct(dictionary, bandwidth, dtype)


class Weighted(torch.autograd.Function):
    """``v * S(x, W)`` for x and v ``(N, C, *spatial)``, W ``(P, C, D)``; v None counts as 1. In the dtype of x."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor | None, x: Tensor, weights: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None
    ) -> Tensor:
        """Compute and keep what backward needs."""
        ctx.save_for_backward(v, x, weights, dictionary, bandwidth)
        ctx.grid, ctx.is_tensor = grid, (v is not None, True, True, True, True, False)
        out = empty_dense(x, x.dtype)
        order = has_channels_last(x)
        rows, scale = Rows(x, channels_last=order), None if v is None else Rows(v, channels_last=order)
        engine = _engine(x, dictionary, bandwidth, grid, weights.shape[0], Recurrence.weighted_powers)
        engine.weighted(rows, scale, weights, Rows(out, channels_last=order))
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate Phi(cotangent * v, x, W)."""
        v, x, weights, dictionary, bandwidth = ctx.saved_tensors
        need = _needed(ctx)
        wanted = (need[1], need[2], need[3], need[4])
        scale = cotangent if v is None else cotangent * v
        grads = _derivatives(scale, x, weights, dictionary, bandwidth, ctx.grid, wanted)
        v_grad = Weighted.apply(cotangent, x, weights, dictionary, bandwidth, ctx.grid) if need[0] else None
        return v_grad, *grads, None


class Moments(torch.autograd.Function):
    """``R(v, x)`` for powers 0 .. P - 1 as ``(P, C, D)``, in the dtype of the arithmetic."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor, x: Tensor, powers: int, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None
    ) -> Tensor:
        """Compute and keep what backward needs."""
        ctx.save_for_backward(v, x, dictionary, bandwidth)
        ctx.grid, ctx.is_tensor = grid, (True, True, False, True, True, False)
        order = has_channels_last(x)
        engine = _engine(x, dictionary, bandwidth, grid, powers, Recurrence.moment_powers)
        return engine.moments(Rows(x, channels_last=order), Rows(v, channels_last=order), powers)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate Phi(v, x, cotangent)."""
        v, x, dictionary, bandwidth = ctx.saved_tensors
        need = _needed(ctx)
        wanted = (need[1], False, need[3], need[4])
        x_grad, _, *small = _derivatives(v, x, cotangent, dictionary, bandwidth, ctx.grid, wanted)
        v_grad = Weighted.apply(None, x, cotangent, dictionary, bandwidth, ctx.grid) if need[0] else None
        return None if v_grad is None else v_grad.to(v.dtype), x_grad, None, *small, None


def _needed(ctx: Any) -> tuple[bool, ...]:
    """Which inputs' gradients this backward pass will really use.

    ``ctx.needs_input_grad`` only says which inputs require gradients. Under ``torch.autograd.grad(loss, x)``, as in
    every step of an attack, the gradients of the parameters would be computed and thrown away. The autograd engine
    knows, for the node that each tensor input came from, whether it will run.
    """
    nodes = iter(ctx.next_functions)
    used = [next(nodes)[0] if is_tensor else None for is_tensor in ctx.is_tensor]
    return tuple(need and _will_run(node) for need, node in zip(ctx.needs_input_grad, used, strict=True))


def _will_run(node: Any) -> bool:
    """Whether the current backward pass goes on into a node; True where PyTorch cannot tell."""
    ask = getattr(torch._C, "_will_engine_execute_node", None)
    if ask is None or torch.compiler.is_compiling():
        return True
    try:
        return ask(node)
    except RuntimeError:  # a leaf whose gradient was asked for by torch.autograd.grad
        return True


def _derivatives(
    v: Tensor,
    x: Tensor,
    weights: Tensor,
    dictionary: Tensor,
    bandwidth: Tensor,
    grid: Grid | None,
    need: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The derivatives of Phi(v, x, W) with respect to x, W, d and gamma, where needed."""
    need_x, need_weights, need_dictionary, need_bandwidth = need
    powers = weights.shape[0]
    x_grad = weights_grad = dictionary_grad = bandwidth_grad = None
    if need_x or need_dictionary:
        slopes = _slope_weights(weights, bandwidth)
    if need_x:
        x_grad = Weighted.apply(v, x, slopes, dictionary, bandwidth, grid)
    if need_weights or need_dictionary or need_bandwidth:
        highest = powers + (2 if need_bandwidth else 1 if need_dictionary else 0)
        moments = Moments.apply(v, x, highest, dictionary, bandwidth, grid)
    if need_weights:
        weights_grad = moments[:powers].to(weights.dtype)
    if need_dictionary:
        per_channel = -(slopes * moments[: powers + 1]).sum(0)
        dictionary_grad = per_channel.sum_to_size(dictionary.shape).to(dictionary.dtype)
    if need_bandwidth:
        per_channel = -(weights * moments[2:]).sum((0, 2))
        bandwidth_grad = per_channel.sum_to_size(bandwidth.shape).to(bandwidth.dtype)
    return x_grad, weights_grad, dictionary_grad, bandwidth_grad


def _slope_weights(weights: Tensor, bandwidth: Tensor) -> Tensor:
    """``W'[p] = (p+1) W[p+1] - 2 gamma W[p-1]``: the weights of dS/dx, ``(P + 1, C, D)``."""
    zero = torch.zeros_like(weights[:1])
    order = torch.arange(1, weights.shape[0], dtype=weights.dtype, device=weights.device).view(-1, 1, 1)
    falling = torch.cat([order * weights[1:], zero, zero])
    rising = torch.cat([zero, -2 * bandwidth.view(-1, 1) * weights])
    return falling + rising
