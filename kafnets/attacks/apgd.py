"""Auto-PGD: projected gradient ascent that chooses its own steps."""

from itertools import pairwise

from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, at_least_one, is_look_due
from kafnets.attacks.climbs import Phase, way_up
from kafnets.attacks.gradients import GradientEstimator
from kafnets.attacks.norms import Norm
from kafnets.attacks.worst import Worst
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy


class APGD(Attack):
    """Projected gradient ascent that needs no step size (Croce and Hein 2020, algorithm 1).

    From a random start, ``z = project(x_t + eta direction(grad))``,
    ``x_{t+1} = project(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1}))``, the first step without momentum, ``eta = 2
    eps``. At the :func:`~kafnets.attacks.climbs.checkpoints`, an image whose loss rose in at most 0.75 of the steps
    since the last one, or whose eta was not halved then and whose best loss is the same, goes on from its best point
    with half of eta.

    In :class:`~kafnets.attacks.norms_l1.L1` another algorithm (Croce and Hein 2021, arXiv 2103.01208): steps along few
    pixels, without momentum, first within 3 eps, then 2 eps, then eps. See
    :class:`~kafnets.attacks.climbs.SparseClimb`.

    Each image keeps its own eta. With ``early_stop`` success counts at any iterate; otherwise, and for an image that
    withstands, the iterate of the largest loss is returned.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        steps: gradient steps a start, >= 1.
        restarts: starts an image, >= 1.
        norm, early_stop, eval_mode, loss, estimator: see :class:`~kafnets.attacks.base.Attack`. AutoAttack takes
            the cross-entropy and (in its version "plus") :func:`~kafnets.losses.dlr`.

    Example:
        >>> import torch
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [0.5, 0.0]])
        >>> APGD(eps=0.1, steps=10)(net, x, y, keys=torch.tensor([0]))
        tensor([[0.4000, 0.4000]])
    """

    def __init__(
        self,
        *,
        eps: float | str = 8 / 255,
        steps: int = 100,
        restarts: int = 1,
        norm: Norm | None = None,
        early_stop: bool = True,
        eval_mode: bool = True,
        loss: Loss = cross_entropy,
        estimator: GradientEstimator | None = None,
    ) -> None:
        super().__init__(
            eps=eps,
            norm=norm,
            restarts=restarts,
            early_stop=early_stop,
            eval_mode=eval_mode,
            loss=loss,
            estimator=estimator,
        )
        self.steps = at_least_one("steps", steps)
        self._climb = way_up(self.norm)

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """One ascent from one start."""
        return self.climb(net, self.loss, x, (y,), keys)

    def passes(self) -> int:
        """Three a step."""
        return 3 * self.steps * self.restarts

    def __str__(self) -> str:
        name = type(self).__name__
        return super().__str__().replace(name, f"{name}-{self.steps}-{self.restarts}")

    def climb(self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor) -> Tensor:
        """One ascent of any loss of logits and ``labels``, of which the first are the true classes.

        Returns:
            the worst image met: a misclassified one if there was any, otherwise the one of the largest loss.
        """
        phases = self._climb.phases(self.eps, self.steps)
        at, first = self._climb.start(self.norm, x, phases[0].eps, keys), 0
        for phase, then in pairwise(phases):
            _, at = self._ascend(net, loss, x, labels, keys, at, phase, first, early_stop=False)
            at, first = self.norm.project(at, x, then.eps), first + phase.steps + 1
        return self._ascend(net, loss, x, labels, keys, at, phases[-1], first, early_stop=self.early_stop)[0]

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
        """The worst images met, and those of the largest loss among the images that were searched to the end.

        ``first`` is the number of the first estimate: what is random about estimates differs from one to the next.
        """
        grad, logits, value = self.estimate(net, loss, start, labels, keys, first)
        climb = self._climb.begin(self.norm, phase.eps, x, keys, start, grad, value)
        worst, reconsider = Worst(start, is_correct(logits, labels[0]), value), self._climb.checkpoints(phase.steps)
        for step in range(1, phase.steps + 1):
            if early_stop and is_look_due(step - 1, x.device):
                standing = worst.correct[climb.index].nonzero().flatten()
                if len(standing) < len(climb.index):
                    climb.keep(standing)
                    labels = tuple(label[standing] for label in labels)
                if len(standing) == 0:
                    break
            climb.move()
            climb.grad, logits, value = self.estimate(net, loss, climb.at, labels, climb.keys, first + step)
            worst.update(climb.index, climb.at, is_correct(logits, labels[0]), value)
            climb.note(value)
            if step in reconsider:
                climb.reconsider()
        return worst.images, climb.best
