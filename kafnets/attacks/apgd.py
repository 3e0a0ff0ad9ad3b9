"""Auto-PGD: projected gradient ascent with momentum that halves its own steps."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, at_least_one
from kafnets.attacks.gradients import GradientEstimator
from kafnets.attacks.norms import Norm
from kafnets.attacks.worst import Worst, rows
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy

MOMENTUM = 0.75
RHO = 0.75


def checkpoints(steps: int) -> list[int]:
    """The numbers of steps after which APGD reconsiders its step size (Croce and Hein 2020, section 3.3).

    ``w_j = ceil(p_j steps)`` with ``p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``, up to
    ``steps``, without the leading 0.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    before, at, found = 0, 22, []  # in hundredths, which add up exactly
    while at <= 100:
        found.append(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return sorted(set(found))


@dataclass
class _Climb:
    """What is kept of each image that is still searched: tensors of one row an image."""

    index: Tensor
    x: Tensor
    keys: Tensor
    at: Tensor
    before: Tensor
    grad: Tensor
    loss: Tensor
    best: Tensor
    best_grad: Tensor
    best_loss: Tensor
    step_size: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor

    def keep(self, chosen: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[chosen])


class APGD(Attack):
    """Projected gradient ascent that needs no step size (Croce and Hein 2020, algorithm 1).

    From a random start, ``z = project(x_t + eta direction(grad))``,
    ``x_{t+1} = project(x_t + 0.75 (z - x_t) + 0.25 (x_t - x_{t-1}))``, the first step without momentum, ``eta = 2
    eps``. At the :func:`checkpoints`, an image whose loss rose in at most 0.75 of the steps since the last one, or
    whose eta was not halved then and whose best loss is the same, goes on from its best point with half of eta.

    Each image keeps its own eta. With ``early_stop`` success counts at any iterate; otherwise, and for an image that
    withstands, the iterate of the largest loss is returned.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        steps: gradient steps a start, >= 1.
        restarts: starts an image, >= 1.
        norm, early_stop, eval_mode, loss, estimator: see :class:`~kafnets.attacks.base.Attack`. AutoAttack takes
            the cross-entropy and (in its version "plus") :func:`~kafnets.losses.dlr`.

    Example:
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

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """One ascent from one start."""
        return self.climb(net, self.loss, x, (y,), keys)

    def passes(self) -> int:
        """Three a step."""
        return 3 * self.steps * self.restarts

    def climb(self, net: Net, loss: Loss, x: Tensor, labels: tuple[Tensor, ...], keys: Tensor) -> Tensor:
        """One ascent of any loss of logits and ``labels``, of which the first are the true classes.

        Returns:
            the worst image met: a misclassified one if there was any, otherwise the one of the largest loss.
        """
        start = self.norm.random_start(x, self.eps, keys)
        grad, logits, value = self.estimate(net, loss, start, labels, keys)
        climb, worst = self._begin(x, keys, start, grad, value), Worst(start, is_correct(logits, labels[0]), value)
        reconsider, since = set(checkpoints(self.steps)), 0
        for step in range(1, self.steps + 1):
            if self.early_stop:
                standing = worst.correct[climb.index].nonzero().flatten()
                if len(standing) < len(climb.index):
                    climb.keep(standing)
                    labels = tuple(label[standing] for label in labels)
                if len(standing) == 0:
                    break
            self._move(climb, momentum=MOMENTUM if step > 1 else 1.0)
            climb.grad, logits, value = self.estimate(net, loss, climb.at, labels, climb.keys, step)
            worst.update(climb.index, climb.at, is_correct(logits, labels[0]), value)
            self._note(climb, value)
            since += 1
            if step in reconsider:
                self._reconsider(climb, since)
                since = 0
        return worst.images

    def _begin(self, x: Tensor, keys: Tensor, start: Tensor, grad: Tensor, loss: Tensor) -> _Climb:
        return _Climb(
            index=torch.arange(len(x), device=x.device),
            x=x,
            keys=keys,
            at=start,
            before=start,
            grad=grad,
            loss=loss,
            best=start,
            best_grad=grad,
            best_loss=loss,
            step_size=torch.full_like(loss, 2 * self.eps, dtype=x.dtype),
            rises=torch.zeros_like(loss, dtype=torch.int64),
            checked_loss=loss,
            halved=torch.ones_like(loss, dtype=torch.bool),
        )

    def _move(self, climb: _Climb, *, momentum: float) -> None:
        direct = climb.at + rows(climb.step_size, climb.x) * self.norm.direction(climb.grad)
        direct = self.norm.project(direct, climb.x, self.eps)
        moved = climb.at + momentum * (direct - climb.at) + (1 - momentum) * (climb.at - climb.before)
        climb.before, climb.at = climb.at, self.norm.project(moved, climb.x, self.eps)

    @staticmethod
    def _note(climb: _Climb, loss: Tensor) -> None:
        climb.rises = climb.rises + (loss > climb.loss)
        climb.loss = loss
        better = loss > climb.best_loss
        climb.best = torch.where(rows(better, climb.x), climb.at, climb.best)
        climb.best_grad = torch.where(rows(better, climb.x), climb.grad, climb.best_grad)
        climb.best_loss = torch.where(better, loss, climb.best_loss)

    @staticmethod
    def _reconsider(climb: _Climb, since: int) -> None:
        stalled = ~climb.halved & (climb.best_loss <= climb.checked_loss)
        # the paper's inequality is strict; the authors' code, which the published figures come from, is not
        climb.halved = (climb.rises <= RHO * since) | stalled
        climb.step_size = torch.where(climb.halved, climb.step_size / 2, climb.step_size)
        climb.at = torch.where(rows(climb.halved, climb.x), climb.best, climb.at)
        climb.grad = torch.where(rows(climb.halved, climb.x), climb.best_grad, climb.grad)
        climb.rises, climb.checked_loss = torch.zeros_like(climb.rises), climb.best_loss
