"""The L1 ball: few, large changes."""

import torch
from torch import Tensor

from kafnets.keyed_random import image_keys, uniform
from kafnets.threat.norms import Norm, towards, widened


class L1(Norm):
    """sum_i |delta_i| <= eps, as with eps = 12 on CIFAR-10.

    The loss rises fastest along a single pixel. An attack that adds :meth:`direction` makes no progress once that pixel
    is 0 or 1; :meth:`step` leaves out such pixels. :class:`~kafnets.attacks.apgd.APGD` moves several pixels at a time
    (:class:`~kafnets.attacks.apgd_ascent.SparseClimb`).

    Example:
        >>> L1().project(torch.tensor([[0.9, 0.6, 0.5]]), torch.tensor([[0.5, 0.5, 0.5]]), 0.2)
        tensor([[0.7000, 0.5000, 0.5000]])
    """

    # allows for rounding in the norm: adding up the entries of an image one by one is off by 5e-5
    _INSIDE = 1 - 1e-4

    def check_eps(self, eps: float) -> None:
        """Raise ``ValueError`` unless eps >= 0 and finite (a ball may be larger than a pixel's range)."""
        if not 0 <= eps < float("inf"):
            raise ValueError(f"eps must be >= 0 and finite, got {eps:g}")

    def random_start(self, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """Uniform in the ball, clipped to [0, 1].

        ``delta_i = eps s_i e_i / (e_1 + ... + e_{d+1})`` with random signs s and exponentially distributed e (Barthe et
        al. 2005, theorem 1).
        """
        size = x[0].numel()
        exponential = -torch.log1p(-uniform(keys, (size + 1,))).to(x.dtype)
        share = (exponential / exponential.sum(1, keepdim=True))[:, :size].reshape(x.shape)
        sign = torch.where(uniform(image_keys(keys, 1), x.shape[1:]) < 0.5, -1.0, 1.0).to(x.dtype)
        return self.project(x + eps * sign * share, x, eps)

    def direction(self, grad: Tensor) -> Tensor:
        """The sign of the largest entry; equal entries share the step. Zero where the gradient is zero or NaN."""
        return steepest(grad, torch.ones(len(grad), dtype=torch.int64, device=grad.device))

    def step(self, x_adv: Tensor, grad: Tensor, length: Tensor | float) -> Tensor:
        """A step along the steepest of those pixels that can still move within [0, 1]."""
        stopped = ((grad > 0) & (x_adv >= 1)) | ((grad < 0) & (x_adv <= 0))
        return super().step(x_adv, torch.where(stopped, 0, grad), length)

    def project(self, x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
        """Shrink every change by the same amount, within the box (Croce and Hein 2021, proposition 2.1).

        ``u_i = x_i + sign(delta_i) min(max(|delta_i| - lambda, 0), room_i)`` with the smallest lambda >= 0 for which
        the sizes add up to eps at most; room_i is how far pixel i can move within [0, 1]. Exact: the sum is piecewise
        linear in lambda, and its breakpoints are sorted.
        """
        delta = (widened(x_adv) - widened(x)).flatten(1).double()
        start = x.flatten(1).double()
        length, room = delta.abs(), torch.where(delta > 0, 1 - start, start)
        less = _shrinkage(length, room, eps * self._INSIDE)
        shrunk = (delta.sign() * (length - less).clamp_min(0)).to(widened(x).dtype).reshape(x.shape)
        # the sum is rounded: where many entries round away from x, or eps is small, it would leave the ball
        return towards(x, (x + shrunk).clamp(0, 1).to(x.dtype), shrunk.abs())

    def size(self, delta: Tensor) -> Tensor:
        """Sum of the absolute entries of each perturbation."""
        return widened(delta).flatten(1).abs().sum(1)


def steepest(grad: Tensor, count: Tensor) -> Tensor:
    """The signs of the ``count`` largest entries of each gradient, and of those equal to the last, scaled to L1 norm 1.

    Args:
        grad: ``(N, ...)``; where it is zero or not finite, the result is zero.
        count: int64 ``(N,)``, in [1, entries].

    Example:
        >>> steepest(torch.tensor([[3.0, -2.0, 1.0], [3.0, -2.0, 1.0]]), torch.tensor([1, 2]))
        tensor([[ 1.0000,  0.0000,  0.0000],
                [ 0.5000, -0.5000,  0.0000]])
    """
    entries = grad.flatten(1)
    size = entries.abs()
    usable = torch.isfinite(size.amax(1, keepdim=True))
    last = size.sort(1, descending=True).values.gather(1, count.unsqueeze(1) - 1)
    signs = torch.where(usable & (size >= last), entries.sign(), 0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).reshape(grad.shape)


def _shrinkage(length: Tensor, room: Tensor, eps: float) -> Tensor:
    """The lambda of :meth:`L1.project`, ``(N, 1)``, of sizes ``(N, d)`` and rooms in float64."""
    # as lambda grows, an entry starts to shrink at length - room, and is 0 from length on
    breakpoints, order = torch.cat([(length - room).clamp_min(0), length], 1).sort(1)
    shrinking = torch.where(order < length.shape[1], 1.0, -1.0).to(length.dtype).cumsum(1)[:, :-1]
    # added up from the last breakpoint, where the sum is 0: small radii are met exactly
    lost = (shrinking * breakpoints.diff(dim=1)).flip(1).cumsum(1).flip(1)
    sums = torch.cat([lost, torch.zeros_like(lost[:, :1])], 1)
    first = (sums > eps).sum(1, keepdim=True).clamp_min(1)  # the breakpoint at which the sum falls to eps
    slope = shrinking.gather(1, first - 1).clamp_min(1)
    return torch.where(sums[:, :1] > eps, breakpoints.gather(1, first) - (eps - sums.gather(1, first)) / slope, 0)
