"""The interface of an engine: sums over Gaussians, their slope and their moments in one pass over the input."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from kafnets.ops.uniform_recurrence import Grid

Wanted = tuple[bool, bool, bool]  # value, slope, moments
Found = tuple[Tensor | None, Tensor | None, Tensor | None]


class Engine(ABC):
    """One way to compute the blocks of :mod:`kafnets.ops.gaussian_sum`, without gradients.

    Args:
        dictionary: ``(D,)`` or ``(C, D)``.
        bandwidth: gamma > 0, ``()`` or ``(C,)``, in 1 / (units of x)^2.
        grid: the same dictionary and bandwidth, if they are fixed and evenly spaced; that they agree is not checked.
    """

    def __init__(self, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None = None) -> None:
        if grid is not None and dictionary.dtype == torch.float64:
            # points that were stored in float32 are not even in float64: what takes no grid would be another function
            dictionary = grid.points().to(dictionary.device)
        self.dictionary, self.bandwidth, self.grid = dictionary, bandwidth, grid

    @staticmethod
    def can(dtype: torch.dtype, weight_powers: int, moment_powers: int) -> bool:
        """Whether :meth:`sweep` supports these; the eager engine computes what another one does not support."""
        return True

    @abstractmethod
    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """``a S(x, W)``, ``a v dS/dx`` and ``R[p, c, i] = sum_{n,l} a v t_i^p k_i``, those of them that are wanted.

        Infinite x gives 0 with slope 0; NaN gives NaN.

        Args:
            x: ``(N, C, *spatial)``, any floating dtype and strides.
            a: like x, or None for 1.
            v: like x, or None for 1.
            weights: W, ``(P, C, D)``; None if only moments are wanted.
            powers: how many powers p of the moments, >= 1.
            want: whether value, slope and moments are wanted.

        Returns:
            value and slope in the shape, dtype and (channels_last or contiguous) layout of x; moments in the dtype of
            the arithmetic (:func:`arithmetic_dtype` of x and the dictionary), ``(powers, C, D)``; None for what is
            not wanted.
        """


def arithmetic_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor has it, otherwise float32: half precision is for storage only."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def slope_weights(weights: Tensor, bandwidth: Tensor) -> Tensor:
    """``W'[p] = (p+1) W[p+1] - 2 gamma W[p-1]``: the weights of dS/dx, ``(P + 1, C, D)``."""
    zero = torch.zeros_like(weights[:1])
    order = torch.arange(1, weights.shape[0], dtype=weights.dtype, device=weights.device).view(-1, 1, 1)
    falling = torch.cat([order * weights[1:], zero, zero])
    rising = torch.cat([zero, -2 * bandwidth.view(-1, 1) * weights])
    return falling + rising
