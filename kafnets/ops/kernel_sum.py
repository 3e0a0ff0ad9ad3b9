"""Sums over any kernel with little memory: a backward pass computes small tiles again instead of saving them."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kafnets.ops import reference
from kafnets.ops.dispatch import engine_for, is_looked_into, must_be_plain
from kafnets.ops.fold import Fold
from kafnets.ops.native.call import STORAGE
from kafnets.ops.native.kernels import NamedKernel
from kafnets.ops.native_fold import NativeFold
from kafnets.ops.needs_grad import will_run
from kafnets.ops.reference import FAR


def terms(
    x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``f_c(x) = sum_i alpha[c, i] k(x - d_ci; bandwidth_c)`` for any kernel, as :func:`kafnets.functional.kaf`.

    Never holds a ``[..., D]`` tensor and saves only ``x`` and the small tensors: values and derivatives are computed
    tile by tile, and a backward pass evaluates the kernel again. Differentiable with respect to ``x``, ``alpha``,
    ``dictionary`` and ``bandwidth`` as many times as ``kernel`` is. Where ``|x| > 1e15``, infinity included, value and
    gradients are 0, also for a kernel that does not fall to 0. NaN gives NaN.

    Args:
        x: ``(N, C)`` or ``(N, C, *spatial)``, any floating dtype and memory layout. Arithmetic is in float32 at least.
        alpha: ``(C, D)``.
        dictionary: ``(D,)``, or ``(C, D)`` where each channel has its own.
        bandwidth: gamma > 0, ``()`` or ``(C,)``, in 1 / (units of x)^2.
        kernel: ``k(t, bandwidth)``, elementwise on tensors that broadcast, in differentiable operations.

    Returns:
        The shape, dtype and (channels_last or contiguous) layout of ``x``.

    Example:
        >>> from kafnets.functional import laplacian
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> terms(x, torch.tensor([[2.0, 1.0]]), torch.tensor([0.0, 1.0]), torch.tensor(0.5), laplacian)
        tensor([[2.3679],
                [1.7358]])
    """
    if must_be_plain():
        return reference.kaf(x, alpha, dictionary, bandwidth, kernel)
    return _tiled(x, alpha, dictionary, bandwidth, kernel)


@torch.compiler.disable  # the tiles' own autograd can't be traced; a compiled network breaks its graph here
def _tiled(
    x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    points, gamma = dictionary.reshape(-1, dictionary.shape[-1]), bandwidth.reshape(-1, 1)
    (value,) = Tiled.apply(_fold(kernel, x, gamma), x, alpha, points, gamma)
    return value


def _fold(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, gamma: Tensor) -> Fold:
    """The fold over any kernel; if the kernel is built into the C++ engine and that is in use, by it."""
    function, wide, like = _TiledKernelSum(kernel), (True, False, False, False), (0,)
    named = NamedKernel.of(kernel, gamma) if engine_for(x.device) == "native" and x.dtype in STORAGE else None
    return Fold(function, wide, like) if named is None else NativeFold(function, wide, like, named)


@dataclass(frozen=True)
class _TiledKernelSum:
    """The formula on one tile: from x ``(c, n)``, alpha and d ``(c or 1, D)``, gamma ``(c or 1, 1)`` to ``(c, n)``."""

    kernel: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor) -> tuple[Tensor]:
        far = x.abs() > FAR
        t = x.masked_fill(far, 0).unsqueeze(1) - dictionary.unsqueeze(2)
        values = self.kernel(t, bandwidth.unsqueeze(2))
        return (torch.bmm(alpha.unsqueeze(1), values).squeeze(1).masked_fill(far, 0),)


class Tiled(torch.autograd.Function):
    """Applies a :class:`Fold` and saves nothing but its inputs; its backward applies a Fold again."""

    @staticmethod
    def forward(ctx: Any, fold: Fold, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute and keep what backward needs."""
        ctx.save_for_backward(*tensors)
        ctx.fold = fold
        with nullcontext() if tensors[0].is_meta else torch.autocast(tensors[0].device.type, enabled=False):
            return fold(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients that this pass needs, tile by tile."""
        inputs = zip(ctx.needs_input_grad[1:], ctx.next_functions, strict=True)
        wanted = tuple(i for i, (need, (node, _)) in enumerate(inputs) if need and will_run(node))
        if not wanted:
            return (None,) * len(ctx.needs_input_grad)
        tensors, fold = (*ctx.saved_tensors, *cotangents), ctx.fold.derivative(wanted)
        found = fold.at_once(*tensors) if is_looked_into() else Tiled.apply(fold, *tensors)
        grads = dict(zip(wanted, found, strict=True))
        return None, *(grads.get(i) for i in range(len(ctx.saved_tensors)))
