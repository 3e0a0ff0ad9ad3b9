"""The two ascents of Auto-PGD: with momentum and halved steps, or along few pixels at a time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import singledispatch
from typing import ClassVar

import torch
from torch import Tensor

from kafnets.keyed_random import normal
from kafnets.threat import L1, Norm, per_image
from kafnets.threat.l1 import steepest

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
    before, at, found = 0, 22, []  # in hundredths, whose sums are exact
    while at <= 100:
        found.append(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return sorted(set(found))


@dataclass(frozen=True)
class Phase:
    """A number of steps, >= 1, within a ball of radius eps."""

    eps: float
    steps: int


@dataclass
class Climb(ABC):
    """One phase of an ascent: tensors with one row per image that is still searched.

    Attributes:
        norm, eps: the ball.
        x: the images ``(n, ...)``.
        keys: int64 ``(n,)``.
        at, grad: the present point and its gradient.
        best, best_grad, best_loss: the point of the largest loss, its gradient and that loss ``(n,)``.
        index: int64 ``(n,)``, the numbers of the images in the batch.
        step_size: ``(n,)``.
    """

    first_step: ClassVar[float]
    """The step size at the beginning, in units of eps."""

    norm: Norm
    eps: float
    x: Tensor
    keys: Tensor
    at: Tensor
    grad: Tensor
    best_loss: Tensor
    best: Tensor = field(init=False)
    best_grad: Tensor = field(init=False)
    index: Tensor = field(init=False)
    step_size: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best, self.best_grad = self.at, self.grad
        self.index = torch.arange(len(self.x), device=self.x.device)
        self.step_size = torch.full_like(self.best_loss, self.first_step * self.eps, dtype=self.x.dtype)
        self._project = self.norm.projection(self.x, self.eps)

    @classmethod
    @abstractmethod
    def phases(cls, eps: float, steps: int) -> list[Phase]:
        """The phases of an ascent of ``steps`` steps in all; the last is in the ball of radius ``eps``."""

    @classmethod
    @abstractmethod
    def start(cls, norm: Norm, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """Where the first phase begins."""

    @staticmethod
    @abstractmethod
    def checkpoints(steps: int) -> set[int]:
        """After which steps of a phase to call :meth:`reconsider`."""

    @abstractmethod
    def move(self) -> None:
        """Take a step."""

    @abstractmethod
    def reconsider(self) -> None:
        """Adapt the next steps to the progress since the last checkpoint."""

    def note(self, loss: Tensor) -> None:
        """Keep the point where the loss is largest."""
        better = loss > self.best_loss
        self.best = torch.where(per_image(better, self.x), self.at, self.best)
        self.best_grad = torch.where(per_image(better, self.x), self.grad, self.best_grad)
        self.best_loss = torch.where(better, loss, self.best_loss)

    def keep(self, chosen: Tensor) -> None:
        """Drop all images except those of these numbers, int64."""
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[chosen])
        self._project = self.norm.projection(self.x, self.eps)

    def _back_to_the_best(self, which: Tensor) -> None:
        self.at = torch.where(per_image(which, self.x), self.best, self.at)
        self.grad = torch.where(per_image(which, self.x), self.best_grad, self.grad)


@dataclass
class MomentumClimb(Climb):
    """Steps of ``norm.step`` with momentum, halved where they stop helping (Croce and Hein 2020, algorithm 1)."""

    first_step = 2.0

    before: Tensor = field(init=False)
    loss: Tensor = field(init=False)
    momentum: float = field(init=False, default=1.0)  # none in the first step
    since: int = field(init=False, default=0)
    rises: Tensor = field(init=False)
    checked_loss: Tensor = field(init=False)
    halved: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.before, self.loss, self.checked_loss = self.at, self.best_loss, self.best_loss
        self.rises = torch.zeros_like(self.best_loss, dtype=torch.int64)
        self.halved = torch.ones_like(self.best_loss, dtype=torch.bool)

    @classmethod
    def phases(cls, eps: float, steps: int) -> list[Phase]:
        """A single one."""
        return [Phase(eps, steps)]

    @classmethod
    def start(cls, norm: Norm, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """A point drawn uniformly from the ball."""
        return norm.random_start(x, eps, keys)

    @staticmethod
    def checkpoints(steps: int) -> set[int]:
        """At shrinking distances, see :func:`checkpoints`."""
        return set(checkpoints(steps))

    def move(self) -> None:
        """``project(x_t + a (z - x_t) + (1 - a) (x_t - x_{t-1}))`` with ``z`` the plain step, projected."""
        direct = self._project(self.norm.step(self.at, self.grad, per_image(self.step_size, self.x)))
        moved = self.at + self.momentum * (direct - self.at) + (1 - self.momentum) * (self.at - self.before)
        self.before, self.at = self.at, self._project(moved)
        self.momentum = MOMENTUM

    def note(self, loss: Tensor) -> None:
        """Also count the steps in which the loss rose."""
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.since = loss, self.since + 1
        super().note(loss)

    def reconsider(self) -> None:
        """Halve the step where the loss rose too rarely.

        Also where the best loss is that of the last checkpoint although the step was not halved there.
        """
        stalled = ~self.halved & (self.best_loss <= self.checked_loss)
        # the paper's inequality is strict; the authors' code, which the published figures come from, is not
        self.halved = (self.rises <= RHO * self.since) | stalled
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        self._back_to_the_best(self.halved)
        self.rises, self.checked_loss, self.since = torch.zeros_like(self.rises), self.best_loss, 0


@dataclass
class SparseClimb(Climb):
    """Steps along the largest entries of the gradient alone (Croce and Hein 2021, arXiv 2103.01208, algorithm 1).

    A step moves two thirds as many pixels as the best point so far differs in from the image, all by the same amount.
    Where that became sparser by more than 5 % since the last checkpoint, the ascent continues from that point with
    the largest step, eps; elsewhere the step shrinks by 1.5, down to eps / 10.

    Attributes:
        changed: int64 ``(n,)``, in how many entries the best point differed from the image at the last checkpoint.
    """

    first_step = 1.0

    changed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.changed = _changed(self.at, self.x)

    @classmethod
    def phases(cls, eps: float, steps: int) -> list[Phase]:
        """Three tenths of the steps within 3 eps, as many within 2 eps, the rest within eps (section 3.2).

        Example:
            >>> [(phase.eps, phase.steps) for phase in SparseClimb.phases(12, 100)]
            [(36, 30), (24, 30), (12, 40)]
        """
        wide = 3 * steps // 10
        phases = (Phase(3 * eps, wide), Phase(2 * eps, wide), Phase(eps, steps - 2 * wide))
        return [phase for phase in phases if phase.steps]

    @classmethod
    def start(cls, norm: Norm, x: Tensor, eps: float, keys: Tensor) -> Tensor:
        """The projection of normal noise, which is sparse already."""
        return norm.project(x + normal(keys, x.shape[1:]).to(x.dtype), x, eps)

    @staticmethod
    def checkpoints(steps: int) -> set[int]:
        """Every 4 % of the steps."""
        every = max(4 * steps // 100, 1)
        return set(range(every, steps + 1, every))

    def move(self) -> None:
        """``project(x_t + step_size steepest(grad, 2/3 changed))``."""
        direction = steepest(self.grad, ((2 * self.changed + 2) // 3).clamp_min(1))
        self.at = self._project(self.at + per_image(self.step_size, self.x) * direction)

    def reconsider(self) -> None:
        """Adapt the sparsity and the step to the best point."""
        changed = _changed(self.best, self.x)
        sparser = 20 * changed < 19 * self.changed
        step_size = (self.step_size / 1.5).clamp_min(self.eps / 10)
        self.step_size = torch.where(sparser, self.eps, step_size)
        self._back_to_the_best(sparser)
        self.changed = changed


@singledispatch
def climb_for(norm: Norm) -> type[Climb]:
    """The ascent of APGD in the ball of a norm; ``climb_for.register`` adds others.

    Example:
        >>> from kafnets.threat import L2
        >>> climb_for(L2()).__name__, climb_for(L1()).__name__
        ('MomentumClimb', 'SparseClimb')
    """
    return MomentumClimb


@climb_for.register
def _(norm: L1) -> type[Climb]:
    return SparseClimb


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    return (x_adv != x).flatten(1).sum(1)
