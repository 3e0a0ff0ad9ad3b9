"""Piecewise polynomials on evenly spaced knots, evaluated by a look-up instead of a sum over all pieces."""

import torch
import torch.nn.functional as F
from torch import Tensor


def piecewise(x: Tensor, pieces: Tensor, scale: Tensor | None = None, *, first: float, step: float) -> Tensor:
    """``sum_p pieces[p, c, j] u^p`` for ``x`` in piece j of channel c, at the distance u (in steps) from its knot.

    With K knots ``t_k = first + k step`` there are K + 1 pieces: piece 0 lies left of the first knot, piece j begins at
    the knot j - 1. In piece 0, u is measured from the first knot too, and negative.

    Differentiable any number of times; at a knot the derivatives are those of the piece on its right.

    Args:
        x: ``(N, C, *spatial)``, float32 or float64. Finite, or NaN, which gives NaN.
        pieces: ``(P + 1, C, K + 1)`` for polynomials of degree P; the first and the last piece must be linear.
        scale: ``(C,)``, multiplies x; None for 1.
        first: the first knot, in units of x.
        step: the spacing, > 0, in units of x.

    Returns:
        The shape and memory layout of ``x``.

    Example:
        >>> parabola = torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 0.0, 2.0]], [[0.0, 1.0, 0.0]]])
        >>> piecewise(torch.tensor([[-1.0], [0.5], [3.0]]), parabola, first=0.0, step=1.0).T
        tensor([[0.0000, 0.2500, 5.0000]])
    """
    if not x.is_contiguous() and x.movedim(1, -1).is_contiguous():
        x = x.movedim(1, -1)
        return _piecewise(x, pieces, scale, x.shape[-1:], first, step).movedim(-1, 1)
    return _piecewise(x, pieces, scale, (-1, *[1] * (x.dim() - 2)), first, step)


def _piecewise(
    x: Tensor, pieces: Tensor, scale: Tensor | None, column: tuple[int, ...], first: float, step: float
) -> Tensor:
    """The same; ``column`` is the shape in which one number per channel broadcasts with ``x``."""
    channels, size = pieces.shape[1:]
    scaled = x if scale is None else x * scale.view(column)
    position = (scaled - first) * (1 / step)
    with torch.no_grad():
        # the largest index is the last knot's; for NaN any piece will do, since u stays NaN
        # as clamp_, for which torch.func.vmap would use a slow loop
        knot = F.hardtanh_(position.floor().nan_to_num_(nan=0.0), -1, size - 2)
        row = torch.arange(0, channels * size, size, dtype=torch.int32, device=x.device).view(column)
        index = (knot.int() + (row + 1)).reshape(-1)
        knot.clamp_min_(0)
    u = position - knot
    highest, *lower = [table.index_select(0, index).view(x.shape) for table in reversed(pieces.flatten(1).unbind())]
    value = highest
    for coefficient in lower:
        value = value * u + coefficient
    return value
