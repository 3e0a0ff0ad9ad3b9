"""Projected gradient descent."""

import torch
from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, at_least_one, in_input_units, is_look_due, show_units
from kafnets.attacks.gradients import GradientEstimator
from kafnets.attacks.norms import Norm
from kafnets.attacks.worst import rows
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy


class PGD(Attack):
    """Repeat: step along the gradient, project back (Madry et al. 2018, section 2.1).

    ``x_0 = x + U(ball)``; ``x_{t+1} = project(x_t + step_size * direction(grad_x sum loss))``, ``steps`` times, from
    ``restarts`` starts (in L1 along the steepest pixel that can still move). With ``early_stop`` success counts at any
    iterate, not only at the last.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        step_size: length of a step in the norm of the ball, > 0, a number or ``"2/255"``.
        steps: gradient steps a start, >= 1.
        restarts: starts an image, >= 1.
        random_start: False starts at the image itself.
        norm, early_stop, eval_mode, loss, estimator: see :class:`~kafnets.attacks.base.Attack`.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])  # the best attack moves the first pixel down
        >>> PGD(eps=0.1, step_size=0.05, steps=5, restarts=2, random_start=False)(net, x, y)
        tensor([[0.4000, 0.5000]])
    """

    def __init__(
        self,
        *,
        eps: float | str = 8 / 255,
        step_size: float | str = 2 / 255,
        steps: int = 50,
        restarts: int = 1,
        random_start: bool = True,
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
        self.step_size = in_input_units("step_size", step_size)
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be > 0 and finite, got {self.step_size:g}")
        self.steps = at_least_one("steps", steps)
        self.random_start = random_start

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """One descent from one start."""
        x_adv = self.norm.random_start(x, self.eps, keys) if self.random_start else x.clone()
        result, left = x_adv.clone(), torch.arange(len(x), device=x.device)
        standing, project = torch.ones_like(y, dtype=torch.bool), self.norm.projection(x, self.eps)
        for step in range(self.steps):
            grad, logits, _ = self.estimate(net, self.loss, x_adv, (y,), keys, step)
            looks = not self.early_stop or is_look_due(step, x.device)
            if self.early_stop:
                standing = standing & is_correct(logits, y)
                if looks and not bool(standing.all()):
                    result[left] = x_adv
                    going = standing.nonzero().flatten()
                    left, x, y, keys, x_adv, grad = (values[going] for values in (left, x, y, keys, x_adv, grad))
                    standing, project = standing[going], self.norm.projection(x, self.eps)
                if len(left) == 0:
                    return result
            moved = project(self.norm.step(x_adv, grad, self.step_size))
            x_adv = moved if looks else torch.where(rows(standing, x), moved, x_adv)  # who is fooled stays
        result[left] = x_adv
        return result

    def passes(self) -> int:
        """Three a step."""
        return 3 * self.steps * self.restarts

    def __str__(self) -> str:
        norm, eps, step_size = type(self.norm).__name__, show_units(self.eps), show_units(self.step_size)
        return f"PGD-{self.steps}-{self.restarts} {norm} eps {eps} step {step_size}"
