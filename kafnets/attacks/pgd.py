"""Projected gradient descent."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, at_least_one, is_sync_due, positive_and_finite
from kafnets.attacks.gradient_estimators import GradientEstimator
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy
from kafnets.threat import Norm, in_input_units, per_image


class PGD(Attack):
    """Repeat: step along the gradient, project back (Madry et al. 2018, section 2.1).

    ``x_0 = x + U(ball)``; ``x_{t+1} = project(x_t + step_size * direction(grad_x sum loss))``, ``steps`` times, from
    ``restarts`` starts (in L1 along the steepest pixel that can still move). In evaluation an error counts at any
    iterate, not only at the last.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        step_size: length of a step in the norm of the ball, > 0, a number or ``"2/255"``; None for ``eps / 4``.
        steps: gradient steps per start, >= 1.
        restarts: starts per image, >= 1.
        random_start: False starts at the image itself.
        norm, loss, estimator: see :class:`~kafnets.attacks.base.Attack`.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])  # the best attack moves the first pixel down
        >>> PGD(eps=0.1, step_size=0.05, steps=5, restarts=2, random_start=False)(net, x, y)
        tensor([[0.4000, 0.5000]])
    """

    headline: ClassVar[tuple[str, ...]] = ("steps", "restarts")
    soft_targets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        step_size: float | str | None = None,
        steps: int = 50,
        restarts: int = 1,
        random_start: bool = True,
        norm: Norm | None = None,
        loss: Loss = cross_entropy,
        estimator: GradientEstimator | None = None,
    ) -> None:
        super().__init__(eps=eps, norm=norm, restarts=restarts, loss=loss, estimator=estimator)
        self._own_step = None if step_size is None else in_input_units("step_size", step_size)
        if self._own_step is not None:
            positive_and_finite("step_size", self._own_step)
        self.steps = at_least_one("steps", steps)
        self.random_start = random_start

    @property
    def step_size(self) -> float:
        """Length of a step, in input units."""
        return self.eps / 4 if self._own_step is None else self._own_step

    def start(self, x: Tensor, keys: Tensor) -> Tensor:
        """The first iterate; a subclass may start elsewhere."""
        return self.norm.random_start(x, self.eps, keys) if self.random_start else x.clone()

    def projection(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The projection after every step; a subclass may use another."""
        return self.norm.projection(x, self.eps)

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One ascent from one start."""
        x_adv = self.start(x, keys)
        result, left = x_adv.clone(), torch.arange(len(x), device=x.device)
        correct, project = torch.ones(len(x), dtype=torch.bool, device=x.device), self.projection(x)
        for step in range(self.steps):
            grad, logits, _ = self.estimate(net, self.loss, x_adv, (y,), keys, step)
            synced = not early_stop or is_sync_due(step, x.device)
            if early_stop:
                correct = correct & is_correct(logits, y)
                if synced and not bool(correct.all()):
                    result[left] = x_adv
                    going = correct.nonzero().flatten()
                    left, x, y, keys, x_adv, grad = (values[going] for values in (left, x, y, keys, x_adv, grad))
                    correct, project = correct[going], self.projection(x)
                if len(left) == 0:
                    return result
            moved = project(self.norm.step(x_adv, grad, self.step_size))
            # already misclassified images are not moved
            x_adv = moved if synced else torch.where(per_image(correct, x), moved, x_adv)
        result[left] = x_adv
        return result

    def passes(self) -> int:
        """Those of the gradients: three per step, unless they are estimated."""
        return self.estimator.passes(self.steps) * self.restarts
