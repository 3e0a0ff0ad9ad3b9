"""A black-box attack: random squares, kept where the loss rises."""

from bisect import bisect_left
from typing import ClassVar

import torch
from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, at_least_one, is_sync_due
from kafnets.attacks.square_perturbations import squares_of
from kafnets.attacks.worst_case import WorstCase
from kafnets.keyed_random import image_keys
from kafnets.losses import margin
from kafnets.threat import Norm, ThreatModel

# after each of these queries, the share of the image that a square covers is halved
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def share_of_the_image(p_init: float, query: int) -> float:
    """The share of the image that the square of a query covers (Andriushchenko et al. 2020, section 5).

    Example:
        >>> [share_of_the_image(0.8, query) for query in (0, 10, 11, 50, 51, 9999)]
        [0.8, 0.8, 0.4, 0.4, 0.2, 0.0015625]
    """
    return p_init / 2 ** bisect_left(HALVED_AFTER, query)


class Square(Attack):
    """Random search over square-shaped changes, from the network's outputs alone (Andriushchenko et al. 2020).

    From stripes (Linf) or tiles (L2, L1) all over the image, each query tries a change of one square that lies at the
    boundary of the ball, and keeps it if the loss rises or the image is misclassified. Squares shrink as in AutoAttack:
    the schedule is that of 10,000 queries, whatever their number. Each image has squares of its own, drawn from its
    key (in the authors' code they share one position per batch), which may touch every edge.

    Images that are not ``(N, C, H, W)`` are treated as one row of pixels.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        queries: changes to try per start, >= 1.
        p_init: share of the image that the first squares cover, in (0, 1].
        restarts: starts per image, >= 1.
        norm: Linf, L2 or L1.
        loss: what to maximise; the margin, as in AutoAttack, or the cross-entropy.

    Raises:
        ValueError: if a setting is out of its range, or for another norm.

    Example:
        >>> x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
        >>> net = lambda x: torch.stack([9 - x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)  # wrong for bright images
        >>> net(x).argmax(1), net(Square(eps=0.1, queries=50)(net, x, y, keys=torch.tensor([0]))).argmax(1)
        (tensor([0]), tensor([1]))
    """

    headline: ClassVar[tuple[str, ...]] = ("queries", "restarts")

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        queries: int = 5000,
        p_init: float = 0.8,
        restarts: int = 1,
        norm: Norm | None = None,
        loss: Loss = margin,
    ) -> None:
        super().__init__(eps=eps, norm=norm, restarts=restarts, loss=loss)
        self.queries = at_least_one("queries", queries)
        if not 0 < p_init <= 1:
            raise ValueError(f"p_init must lie in (0, 1], got {p_init:g}; the default is 0.8")
        self.p_init = p_init

    def _set_threat(self, threat: ThreatModel) -> None:
        super()._set_threat(threat)
        self._squares = squares_of(self.norm)

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One search from one start."""
        shape, x = x.shape, x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)

        def flat_net(images: Tensor) -> Tensor:
            return net(images.reshape(-1, *shape[1:]))

        start = self.norm.project(self._squares.start(x, self.eps, keys), x, self.eps)
        worst = WorstCase(start, *self._judge(flat_net, start, y))
        left, project = torch.arange(len(x), device=x.device), self.norm.projection(x, self.eps)
        for query in range(self.queries):
            if early_stop and is_sync_due(query, x.device):
                remaining = worst.correct[left].nonzero().flatten()
                if len(remaining) < len(left):
                    left, x, y, keys = (rows[remaining] for rows in (left, x, y, keys))
                    project = self.norm.projection(x, self.eps)
                if len(left) == 0:
                    break
            share, fresh = share_of_the_image(self.p_init, query), image_keys(keys, query)
            tried = project(self._squares.change(x, worst.images[left], self.eps, share, fresh))
            worst.update(left, tried, *self._judge(flat_net, tried, y))
        return worst.images.reshape(shape)

    def passes(self) -> int:
        """One per query."""
        return self.queries * self.restarts
