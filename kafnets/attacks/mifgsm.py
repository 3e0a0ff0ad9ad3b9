"""The momentum iterative fast gradient sign method."""

from typing import ClassVar

import torch
from torch import Tensor

from kafnets.attacks.base import Attack, Loss, Net, at_least_one, is_sync_due, positive_and_finite
from kafnets.logits import is_correct
from kafnets.losses import cross_entropy
from kafnets.threat import Norm, in_input_units, per_image


class MIFGSM(Attack):
    """Step along a running sum of normalised gradients (Dong et al. 2018, arXiv 1710.06081, algorithm 1 and eq. 10).

    ``g_{t+1} = decay g_t + grad / ||grad||_1``, ``x_{t+1} = project(x_t + step_size direction(g_{t+1}))``, from the
    image itself. Made for transfer: see :class:`~kafnets.attacks.transfer.Transfer`.

    Args:
        eps: radius of the ball in input units, a number or ``"8/255"``.
        steps: >= 1.
        step_size: length of a step in the norm of the ball, > 0, a number or ``"2/255"``; None for ``eps / steps``.
        decay: factor of the sum at each step, >= 0; 0 is the iterative method without momentum.
        norm, loss: see :class:`~kafnets.attacks.base.Attack`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> net = lambda x: x @ torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
        >>> MIFGSM(eps=0.1)(net, x, y)
        tensor([[0.4000, 0.6000]])
    """

    headline: ClassVar[tuple[str, ...]] = ("steps",)
    soft_targets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        eps: float | str | None = None,
        steps: int = 10,
        step_size: float | str | None = None,
        decay: float = 1.0,
        norm: Norm | None = None,
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(eps=eps, norm=norm, loss=loss)
        self.steps = at_least_one("steps", steps)
        self._own_step = None if step_size is None else in_input_units("step_size", step_size)
        if self._own_step is not None:
            positive_and_finite("step_size", self._own_step, "; the default is eps / steps")
        if not 0 <= decay < float("inf"):
            raise ValueError(f"decay must be >= 0 and finite, got {decay:g}; the default is 1")
        self.decay = decay

    @property
    def step_size(self) -> float:
        """Length of a step, in input units."""
        return self.eps / self.steps if self._own_step is None else self._own_step

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """One ascent from the image."""
        x_adv, momentum = x.clone(), torch.zeros_like(x)
        result, left = x_adv.clone(), torch.arange(len(x), device=x.device)
        correct = torch.ones(len(x), dtype=torch.bool, device=x.device)
        project = self.norm.projection(x, self.eps)
        for step in range(self.steps):
            grad, logits, _ = self.estimate(net, self.loss, x_adv, (y,), keys, step)
            size = per_image(grad.flatten(1).abs().sum(1), grad)
            momentum = self.decay * momentum + torch.where(size > 0, grad / size, 0)
            synced = not early_stop or is_sync_due(step, x.device)
            if early_stop:
                correct = correct & is_correct(logits, y)
                if synced and not bool(correct.all()):
                    result[left] = x_adv
                    going = correct.nonzero().flatten()
                    left, x, y, keys, x_adv, momentum = (t[going] for t in (left, x, y, keys, x_adv, momentum))
                    correct, project = correct[going], self.norm.projection(x, self.eps)
                if len(left) == 0:
                    return result
            moved = project(self.norm.step(x_adv, momentum, self.step_size))
            # already misclassified images are not moved
            x_adv = moved if synced else torch.where(per_image(correct, x), moved, x_adv)
        result[left] = x_adv
        return result

    def passes(self) -> int:
        """Those of the gradients: three per step, unless they are estimated."""
        return self.estimator.passes(self.steps)
