"""Sums over Gaussians as operators that ``torch.compile`` calls without looking inside.

Otherwise it would inline an engine and compute it again wherever a value is used. First derivatives only: PyTorch does
not differentiate compiled graphs twice.
"""

from typing import Any

import torch
from torch import Tensor

from kafnets.ops.engine import arithmetic_dtype
from kafnets.ops.gaussian_sum import small_gradients, sweep
from kafnets.ops.tiling import empty_dense
from kafnets.ops.uniform_recurrence import Grid


def traced_kaf(x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None) -> Tensor:
    """:func:`kafnets.ops.kaf` for use while ``torch.compile`` traces."""
    numbers = None if grid is None else [grid.first, grid.step, float(grid.size), grid.bandwidth]
    return torch.ops.kafnets.kaf(x, alpha, dictionary, bandwidth, numbers)


def _grid(numbers: list[float] | None) -> Grid | None:
    return None if numbers is None else Grid(numbers[0], numbers[1], int(numbers[2]), numbers[3])


@torch.library.custom_op("kafnets::kaf", mutates_args=())
def _kaf(x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: list[float] | None) -> Tensor:
    small = dictionary, bandwidth, _grid(grid)
    value, _, _ = sweep(x, None, None, alpha.unsqueeze(0), 1, small, (True, False, False))
    assert value is not None
    return value


@_kaf.register_fake
def _(x: Tensor, alpha: Tensor, dictionary: Tensor, bandwidth: Tensor, grid: list[float] | None) -> Tensor:
    return empty_dense(x, x.dtype)


@torch.library.custom_op("kafnets::kaf_backward", mutates_args=())
def _backward(
    cotangent: Tensor,
    x: Tensor,
    alpha: Tensor,
    dictionary: Tensor,
    bandwidth: Tensor,
    grid: list[float] | None,
    powers: int,
) -> tuple[Tensor, Tensor]:
    """The gradient for x and, for ``powers`` > 0, the moments."""
    small, want = (dictionary, bandwidth, _grid(grid)), (False, True, powers > 0)
    _, slope, moments = sweep(x, cotangent, None, alpha.unsqueeze(0), max(powers, 1), small, want)
    assert slope is not None
    return slope, x.new_empty(0) if moments is None else moments.contiguous()


@_backward.register_fake
def _(
    cotangent: Tensor,
    x: Tensor,
    alpha: Tensor,
    dictionary: Tensor,
    bandwidth: Tensor,
    grid: list[float] | None,
    powers: int,
) -> tuple[Tensor, Tensor]:
    moments = x.new_empty(powers, *alpha.shape, dtype=arithmetic_dtype(x, dictionary)) if powers else x.new_empty(0)
    return empty_dense(x, x.dtype), moments


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.grid = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    x, alpha, dictionary, bandwidth = ctx.saved_tensors
    _, need_weights, need_dictionary, need_bandwidth, _ = ctx.needs_input_grad
    powers = 3 if need_bandwidth else 2 if need_dictionary else int(need_weights)
    x_grad, moments = torch.ops.kafnets.kaf_backward(cotangent, x, alpha, dictionary, bandwidth, ctx.grid, powers)
    weights_grad, *small = small_gradients(
        moments, alpha.unsqueeze(0), dictionary, bandwidth, (need_weights, need_dictionary, need_bandwidth)
    )
    return x_grad, None if weights_grad is None else weights_grad.squeeze(0), *small, None


_kaf.register_autograd(_gradients, setup_context=_setup)
