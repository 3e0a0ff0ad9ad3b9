"""Auto-PGD towards one wrong class after the other."""

import copy
from collections.abc import Callable
from typing import Self, TypeAlias

import torch
from torch import Tensor

from kafnets.attacks.apgd import APGD
from kafnets.attacks.base import Net, at_least_one
from kafnets.attacks.gradient_estimators import GradientEstimator
from kafnets.attacks.worst_case import WorstCase
from kafnets.keyed_random import image_keys
from kafnets.logits import is_correct, likely_wrong_classes
from kafnets.losses import margin, targeted_dlr, targeted_margin
from kafnets.threat import Norm

TargetedLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


class APGDT(APGD):
    """APGD towards each of the most likely wrong classes in turn (Croce and Hein 2020, section 4.1).

    The classes are ordered by the logits of the image itself. An image may end in any class other than the true one; in
    evaluation it then leaves the search. Images that are still classified correctly are compared by their margin.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        steps: gradient steps per start and target, >= 1.
        targets: wrong classes to try, >= 1; all of them where there are fewer.
        targeted_loss: what to maximise, ``(logits (N, classes), y (N,), target (N,)) -> (N,)``. None for
            :func:`~kafnets.losses.targeted_dlr`, or for :func:`~kafnets.losses.targeted_margin` where the network has
            two or three classes.
        restarts, norm, estimator: see :class:`~kafnets.attacks.apgd.APGD`.

    Example:
        >>> x, y = torch.full((1, 4), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.diag(torch.tensor([1.2, 1.0, 0.5, 0.1]))  # only the second class is within reach
        >>> x_adv = APGDT(eps=0.1, steps=10, targets=2)(net, x, y, keys=torch.tensor([0]))
        >>> net(x_adv).argmax(1)
        tensor([1])
    """

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        steps: int = 100,
        targets: int = 9,
        restarts: int = 1,
        norm: Norm | None = None,
        targeted_loss: TargetedLoss | None = None,
        estimator: GradientEstimator | None = None,
    ) -> None:
        super().__init__(
            eps=eps,
            steps=steps,
            restarts=restarts,
            norm=norm,
            loss=margin,
            estimator=estimator,
        )
        self.targets = at_least_one("targets", targets)
        self.targeted_loss = targeted_loss or targeted_dlr
        self._own_loss = targeted_loss is not None

    def for_classes(self, classes: int) -> Self:
        """This attack for a network with so many classes: its number of targets, and its loss unless one was given."""
        fitted = copy.copy(self)
        fitted.targets = min(self.targets, classes - 1)
        if not self._own_loss and classes < targeted_dlr.fewest_classes:  # type: ignore[attr-defined]
            fitted.targeted_loss = targeted_margin
        return super(APGDT, fitted).for_classes(classes)

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One ascent towards each target from one start."""
        logits = self._answers(net, x)
        targeted_loss = self.for_classes(logits.shape[1]).targeted_loss
        worst = WorstCase(x, is_correct(logits, y), self.loss(logits, y))
        for number, target in enumerate(likely_wrong_classes(logits, y, self.targets).T):
            left = worst.still_correct() if early_stop else torch.arange(len(x), device=x.device)
            if len(left) == 0:
                break
            labels = (y[left], target[left])
            start = image_keys(keys[left], number)
            found = self.climb(net, targeted_loss, x[left], labels, start, early_stop=early_stop)
            worst.update(left, found, *self._judge(net, found, y[left]))
        return worst.images

    def _losses(self) -> tuple[Callable[..., Tensor], ...]:
        return (self.loss, self.targeted_loss)

    def passes(self) -> int:
        """Three per step and target."""
        return self.targets * super().passes()
