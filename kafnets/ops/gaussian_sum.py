"""Sums over Gaussians with derivatives of every order: a family of functions that is closed under differentiation.

With ``t_i = x - d_i`` and ``k_i = exp(-gamma t_i^2)`` (d and gamma may differ per channel c), the trilinear form

    Phi(v, x, W) = sum_{n,c,l} v[n,c,l] sum_{p,i} W[p,c,i] t_i^p k_i

has two partial derivatives that are its own building blocks,

    dPhi/dv = S(x, W) = sum_{p,i} W[p,c,i] t_i^p k_i        :class:`Weighted` gives v * S(x, W)
    dPhi/dW = R(v, x)[p,c,i] = sum_{n,l} v t_i^p k_i         :class:`Moments`

and, since ``d(t^p k)/dt = p t^(p-1) k - 2 gamma t^(p+1) k``, three that are the same blocks with other weights:

    dPhi/dx     =  v * S(x, W')      with W'[p] = (p+1) W[p+1] - 2 gamma W[p-1]   (one more power than W)
    dPhi/dd_i   = -sum_p W'[p,:,i] R[p,:,i]
    dPhi/dgamma = -sum_{p,i} W[p,:,i] R[p+2,:,i]

A cotangent a of ``v * S(x, W)`` needs the derivatives of Phi(a v, x, W), a cotangent B of R those of Phi(v, x, B).
Both backward passes are therefore one function, :func:`_derivatives`, written in terms of the two blocks.
Saved for backward: x, v and the small tensors.
"""

from typing import Any, cast

import torch
from torch import Tensor

from kafnets.ops.dispatch import engine_for, is_looked_into
from kafnets.ops.eager import EagerSweep
from kafnets.ops.engine import Engine, Found, Wanted, slope_weights
from kafnets.ops.native import NativeSweep
from kafnets.ops.needs_grad import will_run
from kafnets.ops.reference import ReferenceSweep
from kafnets.ops.triton_engine import TritonSweep
from kafnets.ops.uniform_recurrence import Grid

ENGINES: dict[str, type[Engine]] = {
    "native": NativeSweep,
    "triton": TritonSweep,
    "eager": EagerSweep,
    "reference": ReferenceSweep,
}
Small = tuple[Tensor, Tensor, Grid | None]  # dictionary, bandwidth, grid


def sweep(
    x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, small: Small, want: Wanted
) -> Found:
    """:meth:`kafnets.ops.engine.Engine.sweep` by the device's engine, or the eager one if that does not support it."""
    chosen = ENGINES[engine_for(x.device)]
    if not chosen.can(x.dtype, 0 if weights is None else weights.shape[0], powers if want[2] else 0):
        chosen = EagerSweep
    return chosen(*small).sweep(x, a, v, weights, powers, want=want)


class Weighted(torch.autograd.Function):
    """``v * S(x, W)`` for x and v ``(N, C, *spatial)``, W ``(P, C, D)``; v None counts as 1. In the dtype of x."""

    @staticmethod
    def forward(
        ctx: Any, v: Tensor | None, x: Tensor, weights: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None
    ) -> Tensor:
        """Compute and keep what backward needs."""
        ctx.save_for_backward(v, x, weights, dictionary, bandwidth)
        ctx.grid, ctx.is_tensor = grid, (v is not None, True, True, True, True, False)
        value, _, _ = sweep(x, v, None, weights, 1, (dictionary, bandwidth, grid), (True, False, False))
        return cast(Tensor, value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate Phi(cotangent * v, x, W)."""
        v, x, weights, dictionary, bandwidth = ctx.saved_tensors
        v_grad, *grads = _derivatives(cotangent, v, x, weights, (dictionary, bandwidth, ctx.grid), _needed(ctx))
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
        _, _, moments = sweep(x, None, v, None, powers, (dictionary, bandwidth, grid), (False, False, True))
        return cast(Tensor, moments)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate Phi(v, x, cotangent)."""
        v, x, dictionary, bandwidth = ctx.saved_tensors
        need_v, need_x, _, *need_small, _ = _needed(ctx)
        need = (need_v, need_x, False, *need_small, False)
        v_grad, x_grad, _, *small = _derivatives(None, v, x, cotangent, (dictionary, bandwidth, ctx.grid), need)
        return v_grad, x_grad, None, *small, None


def _needed(ctx: Any) -> tuple[bool, ...]:
    """Which inputs' gradients this backward pass will use; see :func:`kafnets.ops.needs_grad.will_run`."""
    nodes = iter(ctx.next_functions)
    used = [next(nodes)[0] if is_tensor else None for is_tensor in ctx.is_tensor]
    return tuple(need and will_run(node) for need, node in zip(ctx.needs_input_grad, used, strict=True))


def _derivatives(
    a: Tensor | None, v: Tensor | None, x: Tensor, weights: Tensor, small: Small, need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The derivatives of Phi(a v, x, W) with respect to v, x, W, d and gamma, where needed.

    Only a double backward differentiates them: each is one of the two blocks then, and all are one sweep otherwise, as
    in the reference, which PyTorch differentiates by itself.
    """
    need_v, need_x, *need_small = need[:5]
    powers = weights.shape[0] + (2 if need_small[2] else 1 if need_small[1] else 0)
    blocks = _as_blocks if torch.is_grad_enabled() and not is_looked_into() else sweep
    v_grad, x_grad, moments = blocks(x, a, v, weights, powers, small, (need_v, need_x, any(need_small)))
    if v is not None and v_grad is not None:
        v_grad = v_grad.to(v.dtype)
    return v_grad, x_grad, *small_gradients(moments, weights, *small[:2], tuple(need_small))


def small_gradients(
    moments: Tensor | None, weights: Tensor, dictionary: Tensor, bandwidth: Tensor, need: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The derivatives of Phi for W, d and gamma, where needed, from R: d needs one more power than W, gamma two."""
    need_weights, need_dictionary, need_bandwidth = need
    powers = weights.shape[0]
    weights_grad = dictionary_grad = bandwidth_grad = None
    if moments is not None and need_weights:
        weights_grad = moments[:powers].to(weights.dtype)
    if moments is not None and need_dictionary:
        per_channel = -(slope_weights(weights, bandwidth) * moments[: powers + 1]).sum(0)
        dictionary_grad = per_channel.sum_to_size(dictionary.shape).to(dictionary.dtype)
    if moments is not None and need_bandwidth:
        per_channel = -(weights * moments[2:]).sum((0, 2))
        bandwidth_grad = per_channel.sum_to_size(bandwidth.shape).to(bandwidth.dtype)
    return weights_grad, dictionary_grad, bandwidth_grad


def _as_blocks(
    x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor, powers: int, small: Small, want: Wanted
) -> Found:
    """A sweep that can be differentiated."""
    scale = a if v is None else v if a is None else a * v
    value = Weighted.apply(a, x, weights, *small) if want[0] else None
    slope = Weighted.apply(scale, x, slope_weights(weights, small[1]), *small) if want[1] else None
    return value, slope, Moments.apply(scale, x, powers, *small) if want[2] else None
