"""Sums over named kernels in C++, in the place of the tiles of :mod:`kafnets.ops.kernel_sum`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kafnets.ops.engine import arithmetic_dtype
from kafnets.ops.fold import Fold
from kafnets.ops.native.kernels import NamedKernel


@dataclass(frozen=True)
class NativeFold(Fold):
    """The fold of a kernel that is built into the C++ engine: value and first derivative in one pass each.

    Derivatives of higher order are those of the fold's ``function``, tile by tile.

    Attributes:
        named: the kernel; the function must compute the same.
    """

    named: NamedKernel

    def derivative(self, wanted: tuple[int, ...]) -> Fold:
        """The gradients of the wanted inputs."""
        plain = super().derivative(wanted)
        return _NativeDerivative(plain.function, plain.wide, plain.like, self.named)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The values, without gradients."""
        x, alpha, points, gamma = tensors
        dtype = arithmetic_dtype(*tensors)
        return (self.named.value(_widened(x, dtype), alpha, points, gamma.flatten()).to(x.dtype),)


@dataclass(frozen=True)
class _NativeDerivative(Fold):
    """From x, alpha, d, gamma and a cotangent to gradients."""

    named: NamedKernel

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        x, alpha, points, gamma, cotangent = tensors
        dtype = arithmetic_dtype(*tensors)
        found = self.named.derivatives(
            _widened(x, dtype), _widened(cotangent, dtype), alpha, points, gamma.flatten(), min(2, max(self.like))
        )
        rows = [found[0], *found[1:3], *(row.unsqueeze(1) for row in found[3:])]
        return tuple(rows[i].sum_to_size(tensors[i].shape).to(tensors[i].dtype) for i in self.like)


def _widened(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t``, or its copy in float64 if a small tensor has that dtype."""
    return t.to(dtype) if dtype == torch.float64 else t
