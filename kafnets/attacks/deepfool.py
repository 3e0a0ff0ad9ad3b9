"""DeepFool."""

import copy
from typing import ClassVar, Self

import torch
from torch import Tensor

from kafnets.attacks.base import Net, at_least_one, is_sync_due
from kafnets.attacks.linearized_boundary import gain, nearest_boundary
from kafnets.attacks.minimum_norm import MinimumNorm, Nearest
from kafnets.logits import is_correct, likely_wrong_classes
from kafnets.threat import Norm, per_image

_BEYOND = 1e-4  # as in the authors' code, in input units, so that no step ends on the boundary itself


class DeepFool(MinimumNorm):
    """Step onto the nearest linearised boundary until the class changes (Moosavi-Dezfooli, Fawzi, Frossard 2016).

    ``x_{t+1} = clip(x_t + (1 + overshoot) (|gap| / ||w||_* + 1e-4) direction(w))`` with the nearest boundary's gap and
    gradient w (algorithm 2 for L2, eq. 11 for Linf). Quick, but not exact: it finds an error near the image, not the
    nearest.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        steps: >= 1.
        classes: the most likely wrong classes to consider, at most this many, >= 1; one backward pass per class and
            step.
        overshoot: how far beyond the plane, as a fraction of the step, >= 0.
        norm: see :class:`~kafnets.attacks.minimum_norm.MinimumNorm`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: torch.stack([x[:, 0] - 0.45, 0 * x[:, 1]], 1)  # the boundary is 0.05 away
        >>> DeepFool(eps=0.1, overshoot=0.0).nearest(net, x, y).sizes
        tensor([0.0501])
    """

    headline: ClassVar[tuple[str, ...]] = ("steps",)

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        steps: int = 50,
        classes: int = 9,
        overshoot: float = 0.02,
        norm: Norm | None = None,
    ) -> None:
        super().__init__(eps=eps, norm=norm)
        self.steps = at_least_one("steps", steps)
        self.classes = at_least_one("classes", classes)
        if not 0 <= overshoot < float("inf"):
            raise ValueError(f"overshoot must be >= 0 and finite, got {overshoot:g}; the default is 0.02")
        self.overshoot = overshoot

    def for_classes(self, classes: int) -> Self:
        """This attack with no more classes than there are wrong ones."""
        fitted = copy.copy(self)
        fitted.classes = min(self.classes, classes - 1)
        return fitted

    def search(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, logits: Tensor, enough: float) -> Nearest:
        """Step until misclassified."""
        found, left = Nearest.none(x), torch.arange(len(x), device=x.device)
        classes, x_adv = likely_wrong_classes(logits, y, self.classes), x
        correct = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for step in range(self.steps):
            gap, w = nearest_boundary(self.norm, net, x_adv, y, classes, step)
            size = gain(self.norm, w)
            length = torch.where(size > 0, gap.abs() / size.clamp_min(1e-30) + _BEYOND, 0)
            moved = self.norm.step(x_adv, w, (1 + self.overshoot) * per_image(length, x)).clamp(0, 1)
            x_adv = torch.where(per_image(correct, x), moved, x_adv)
            with torch.no_grad():
                wrong = correct & ~is_correct(net(x_adv), y)
            found.keep(left, x_adv, torch.where(wrong, self.norm.size(x_adv - x), torch.inf))
            correct = correct & ~wrong
            if is_sync_due(step, x.device) and not bool(correct.all()):
                going = correct.nonzero().flatten()
                left, x, y, x_adv, classes, correct = (t[going] for t in (left, x, y, x_adv, classes, correct))
            if len(left) == 0:
                break
        return found

    def passes(self) -> int:
        """Two forward passes per step, and a backward one per class."""
        return self.steps * (2 + 2 * self.classes)
