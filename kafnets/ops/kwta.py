"""k-winners-take-all with an exact threshold and a mask for a derivative."""

from typing import Any

import torch
from torch import Tensor

from kafnets.functional import check_ratio, nan_to_inf, winner_count


class _Dropped(torch.autograd.Function):
    """0 where ``dropped``, ``x`` elsewhere: linear, so backward needs the mask (a byte a value) and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Tensor) -> Tensor:
        """Compute and keep the mask."""
        ctx.save_for_backward(dropped)
        return torch.where(dropped, 0, x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        """Drop the same values of the cotangent."""
        (dropped,) = ctx.saved_tensors
        return _Dropped.apply(cotangent, dropped), None


def kwta(x: Tensor, ratio: float) -> Tensor:
    """Per sample, keep the ``k = ceil(ratio * M)`` largest of its M values (ties with the k-th too), zero the rest.

    Xiao, Zhong, Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020 (arXiv 1905.10510), eq. 3; the
    values of :func:`kafnets.functional.kwta`. The derivative is 1 at what is kept and 0 elsewhere (the threshold's own
    derivative is zero almost everywhere). NaN counts as infinite and is kept.

    Args:
        x: ``(N, ...)``, floating point, any memory layout.
        ratio: the fraction kept, in (0, 1].

    Returns:
        The shape, dtype and layout of ``x``.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1].

    Example:
        >>> kwta(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), 0.5)
        tensor([[3., 0., 2., 0.]])
    """
    check_ratio(ratio)
    if x.numel() == 0:
        return x
    with torch.no_grad():
        rows = x.flatten(1)
        # an unsorted topk is a selection, faster than kthvalue and than sorting the winners
        winners = rows.topk(winner_count(ratio, rows.shape[1]), dim=1, sorted=False).values
        smallest_kept = nan_to_inf(winners).amin(1)
        dropped = x < smallest_kept.view(-1, *[1] * (x.dim() - 1))
    return _Dropped.apply(x, dropped)
