"""Auto-PGD: projected gradient ascent that chooses its own steps."""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from kafnets.attacks.apgd_ascent import Phase, climb_for
from kafnets.attacks.base import Attack, Loss, Net, at_least_one, is_sync_due
from kafnets.attacks.gradient_estimators import GradientEstimator
from kafnets.attacks.worst_case import WorstCase
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy
from kafnets.threat import Norm, ThreatModel


class APGD(Attack):
    """Projected gradient ascent that needs no step size (Croce and Hein 2020, algorithm 1).

    From a random start, with ``eta = 2 eps`` and the first step without momentum,
    ``z = project(x_t + eta direction(grad))``, ``x_{t+1} = project(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1}))``.
    At the :func:`~kafnets.attacks.apgd_ascent.checkpoints`, an image whose loss rose in at most 0.75 of the steps since
    the last one, or whose eta was not halved then and whose best loss is the same, continues from its best point with
    half of eta.

    In :class:`~kafnets.threat.l1.L1` another algorithm (Croce and Hein 2021, arXiv 2103.01208): steps along few
    pixels, without momentum, first within 3 eps, then 2 eps, then eps. See
    :class:`~kafnets.attacks.apgd_ascent.SparseClimb`.

    Each image has its own eta. A misclassified iterate is returned if there was any, otherwise the iterate of the
    largest loss.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        steps: gradient steps per start, >= 1.
        restarts: starts per image, >= 1.
        norm, loss, estimator: see :class:`~kafnets.attacks.base.Attack`. AutoAttack takes
            the cross-entropy and (in its version "plus") :func:`~kafnets.losses.dlr`.

    Example:
        >>> import torch
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [0.5, 0.0]])
        >>> APGD(eps=0.1, steps=10)(net, x, y, keys=torch.tensor([0]))
        tensor([[0.4000, 0.4000]])
    """

    headline: ClassVar[tuple[str, ...]] = ("steps", "restarts")

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        steps: int = 100,
        restarts: int = 1,
        norm: Norm | None = None,
        loss: Loss = cross_entropy,
        estimator: GradientEstimator | None = None,
    ) -> None:
        super().__init__(eps=eps, norm=norm, restarts=restarts, loss=loss, estimator=estimator)
        self.steps = at_least_one("steps", steps)

    def _set_threat(self, threat: ThreatModel) -> None:
        super()._set_threat(threat)
        self._climb = climb_for(self.norm)

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One ascent from one start."""
        return self.climb(net, self.loss, x, (y,), keys, early_stop=early_stop)

    def passes(self) -> int:
        """Those of the gradients: three per step, unless they are estimated."""
        return self.estimator.passes(self.steps) * self.restarts

    def climb(
        self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor, *, early_stop: bool
    ) -> Tensor:
        """One ascent of any loss of logits and ``labels``, of which the first are the true classes.

        Returns:
            The worst image found: a misclassified one if there was any, otherwise the one of the largest loss.
        """
        phases = self._climb.phases(self.eps, self.steps)
        at, first = self._climb.start(self.norm, x, phases[0].eps, keys), 0
        for phase, then in pairwise(phases):
            _, at = self._ascend(net, loss, x, labels, keys, at, phase, first, early_stop=False)
            at, first = self.norm.project(at, x, then.eps), first + phase.steps + 1
        return self._ascend(net, loss, x, labels, keys, at, phases[-1], first, early_stop=early_stop)[0]

    def _ascend(
        self,
        net: Net,
        loss: Loss,
        x: Tensor,
        labels: tuple[Tensor, ...],
        keys: Tensor,
        start: Tensor,
        phase: Phase,
        first: int,
        *,
        early_stop: bool,
    ) -> tuple[Tensor, Tensor]:
        """The worst images found, and the points of the largest loss of those images that were searched to the end.

        ``first`` is the number of the first estimate, from which a random estimator draws its numbers.
        """
        grad, logits, value = self.estimate(net, loss, start, labels, keys, first)
        climb = self._climb(self.norm, phase.eps, x, keys, start, grad, value)
        worst, reconsider = WorstCase(start, is_correct(logits, labels[0]), value), self._climb.checkpoints(phase.steps)
        for step in range(1, phase.steps + 1):
            if early_stop and is_sync_due(step - 1, x.device):
                remaining = worst.correct[climb.index].nonzero().flatten()
                if len(remaining) < len(climb.index):
                    climb.keep(remaining)
                    labels = tuple(label[remaining] for label in labels)
                if len(remaining) == 0:
                    break
            climb.move()
            climb.grad, logits, value = self.estimate(net, loss, climb.at, labels, climb.keys, first + step)
            worst.update(climb.index, climb.at, is_correct(logits, labels[0]), value)
            climb.note(value)
            if step in reconsider:
                climb.reconsider()
        return worst.images, climb.best
