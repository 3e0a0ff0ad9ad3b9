"""The fast adaptive boundary attack."""

import copy
from typing import ClassVar, Self

import torch
from torch import Tensor

from kafnets.attacks.base import Net, at_least_one, is_sync_due
from kafnets.attacks.hyperplane_projection import step_to_plane
from kafnets.attacks.linearized_boundary import nearest_boundary
from kafnets.attacks.minimum_norm import MinimumNorm, Nearest
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct, likely_wrong_classes
from kafnets.threat import Norm, per_image


class FAB(MinimumNorm):
    """Walk along the decision boundary towards the image (Croce and Hein 2020, arXiv 1907.02044, algorithm 1).

    Each step linearises the network at the iterate ``x_i`` and takes the nearest boundary's plane; with ``d_1`` and
    ``d_0`` the shortest steps within the box to it from ``x_i`` and from the image ``x``,

    ``x_{i+1} = clip((1 - a) (x_i + eta d_1) + a (x + eta d_0))``,
    ``a = min(||d_1|| / (||d_1|| + ||d_0||), alpha_max)``;

    an iterate that is misclassified is moved back, ``x + beta (x_{i+1} - x)``. The defaults are those of AutoAttack.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        targeted: True searches towards each of the ``classes`` in turn, with ``steps`` steps each and one backward pass
            per step (FAB-T). False steps towards the nearest of them, with ``classes`` backward passes per step.
        classes: the most likely wrong classes of the image, at most this many, >= 1.
        steps: >= 1.
        restarts: attempts per image, >= 1; more than one needs ``random_start``.
        random_start: start from a point drawn uniformly from the ball of radius eps / 2, instead of from the image.
        alpha_max: the largest weight of the step from the image, in [0, 1].
        eta: length of a step as a multiple of the distance to the plane, >= 1.
        beta: factor of the distance from the image in a move back, in (0, 1).
        norm: see :class:`~kafnets.attacks.minimum_norm.MinimumNorm`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: torch.stack([x[:, 0] - 0.45, 0 * x[:, 1]], 1)  # the boundary is 0.05 away
        >>> FAB(eps=0.1).nearest(net, x, y).sizes
        tensor([0.0503])
    """

    headline: ClassVar[tuple[str, ...]] = ("steps", "restarts")

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        targeted: bool = True,
        classes: int = 9,
        steps: int = 100,
        restarts: int = 1,
        random_start: bool = False,
        alpha_max: float = 0.1,
        eta: float = 1.05,
        beta: float = 0.9,
        norm: Norm | None = None,
    ) -> None:
        super().__init__(eps=eps, norm=norm, restarts=restarts)
        self.targeted = targeted
        self.classes = at_least_one("classes", classes)
        self.steps = at_least_one("steps", steps)
        if restarts > 1 and not random_start:
            raise ValueError(f"restarts={restarts} would repeat the same search; pass random_start=True, or restarts=1")
        self.random_start = random_start
        if not 0 <= alpha_max <= 1:
            raise ValueError(f"alpha_max must lie in [0, 1], got {alpha_max:g}; the default is 0.1")
        if not 1 <= eta < float("inf"):
            raise ValueError(f"eta must be >= 1 and finite, got {eta:g}; the default is 1.05")
        if not 0 < beta < 1:
            raise ValueError(f"beta must lie in (0, 1), got {beta:g}; the default is 0.9")
        self.alpha_max, self.eta, self.beta = alpha_max, eta, beta

    def passes(self) -> int:
        """Three per step and class."""
        return 3 * self.steps * self.classes * self.restarts

    def for_classes(self, classes: int) -> Self:
        """This attack with no more classes than there are wrong ones."""
        fitted = copy.copy(self)
        fitted.classes = min(self.classes, classes - 1)
        return fitted

    def search(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, logits: Tensor, enough: float) -> Nearest:
        """One walk for each target, or one for all classes."""
        classes, found = likely_wrong_classes(logits, y, self.classes), Nearest.none(x)
        for walk, targets in enumerate(classes.split(1, dim=1) if self.targeted else (classes,)):
            left = (found.sizes > enough).nonzero().flatten()
            if len(left) == 0:
                break
            self._walk(net, x, y, image_keys(keys, walk), targets, found, left, enough)
        return found

    def _walk(
        self,
        net: Net,
        x: Tensor,
        y: Tensor,
        keys: Tensor,
        targets: Tensor,
        found: Nearest,
        left: Tensor,
        enough: float,
    ) -> None:
        """Walk with the images number ``left`` along the boundaries to ``targets``; add errors to ``found``."""
        x, y, targets = x[left], y[left], targets[left]
        x_adv = self.norm.random_start(x, self.eps / 2, keys[left]) if self.random_start else x
        searched = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for step in range(self.steps):
            moved = self._step(net, x_adv, x, y, targets, step)
            x_adv = torch.where(per_image(searched, x), moved, x_adv)
            with torch.no_grad():
                wrong = searched & ~is_correct(net(x_adv), y)
            found.keep(left, x_adv, torch.where(wrong, self.norm.size(x_adv - x), torch.inf))
            x_adv = torch.where(per_image(wrong, x), x + self.beta * (x_adv - x), x_adv)
            searched = found.sizes[left] > enough
            if is_sync_due(step, x.device) and not bool(searched.all()):
                going = searched.nonzero().flatten()
                left, x, y, targets, x_adv, searched = (t[going] for t in (left, x, y, targets, x_adv, searched))
                if len(left) == 0:
                    return

    def _step(self, net: Net, x_adv: Tensor, x: Tensor, y: Tensor, targets: Tensor, step: int) -> Tensor:
        gap, w = nearest_boundary(self.norm, net, x_adv, y, targets, step)
        from_here = step_to_plane(self.norm, x_adv, w, -gap)
        from_image = step_to_plane(self.norm, x, w, (w * (x_adv - x)).flatten(1).sum(1) - gap)
        here, image = (self.norm.size(step).clamp_min(1e-8) for step in (from_here, from_image))
        a = per_image((here / (here + image)).clamp_max(self.alpha_max), x).to(x.dtype)
        return ((1 - a) * (x_adv + self.eta * from_here) + a * (x + self.eta * from_image)).clamp(0, 1)
