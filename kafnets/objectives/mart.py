"""MART: misclassified images weigh more."""

import torch
from torch import Tensor

from kafnets.attacks.base import Net, at_least_one, positive_and_finite
from kafnets.attacks.queries import ask
from kafnets.logits import is_correct
from kafnets.losses import kl_divergence
from kafnets.objectives.adversarial import Adversarial
from kafnets.objectives.base import Batch, Terms
from kafnets.objectives.nearby_start import NearbyStart


class MART(Adversarial):
    """``E [ loss(x', y) - log(1 - max_{k != y} p_k(x')) + beta KL(p(x) || p(x')) (1 - p_y(x)) ]``, p = softmax(net(.)).

    ``x'`` maximises the cross-entropy. Wang, Zou, Yi, Bailey, Ma, Gu 2020 ("Improving adversarial robustness requires
    revisiting misclassified examples", equations 8 to 11), with the constants of the official code: ten steps of 0.007
    at eps 0.031, from ``x + 0.001 N(0, 1)``, in evaluation mode, beta 5. All logarithms are computed from logits in
    float32 or better, so the constants that guard the official code against log 0 (1.0001, 1e-12) are not needed. In
    the training step the network processes x, then x'.

    Args:
        beta: weight of the divergence, > 0.
        steps: number of steps of the attack, >= 1.
        step_size: length of a step in input units, a number or ``"2/255"``; None for 0.007 / 0.031 of eps.
        eval_mode: see :class:`~kafnets.objectives.adversarial.Adversarial`.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> print(MART().label, MART(beta=6.0).label)
        MART MART(beta=6)
    """

    headline = ()

    def __init__(
        self, *, beta: float = 5.0, steps: int = 10, step_size: float | str | None = None, eval_mode: bool = True
    ) -> None:
        attack = NearbyStart(step_size=step_size, steps=at_least_one("steps", steps))
        super().__init__(attack=attack, eval_mode=eval_mode)
        self.beta = positive_and_finite("beta", beta, "; the official value is 5")

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the loss on both kinds of images; the logits are those of ``inputs``."""
        clean, attacked = ask(net, batch.x), ask(net, inputs)
        boosted = batch.loss(attacked, batch.y) - _log_not_runner_up(attacked, batch.y)
        wrong = 1 - _wide(clean).softmax(1).gather(1, batch.y.unsqueeze(1)).squeeze(1)
        divergence = kl_divergence(attacked, clean) * wrong
        log = {
            "boosted_loss": boosted.detach().mean(),
            "weighted_kl": divergence.detach().mean(),
            "natural_accuracy": is_correct(clean.detach(), batch.y).float().mean(),
        }
        return Terms((boosted + self.beta * divergence).mean(), attacked, inputs, log)


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype.itemsize < 4 else logits


def _log_not_runner_up(logits: Tensor, y: Tensor) -> Tensor:
    """``log(1 - max_{k != y} p_k)`` for each image: the log-probability of every class but the likeliest wrong one."""
    logits = _wide(logits)
    runner_up = logits.detach().scatter(1, y.unsqueeze(1), float("-inf")).argmax(1, keepdim=True)
    rest = logits.scatter(1, runner_up, float("-inf"))
    return torch.logsumexp(rest, 1) - torch.logsumexp(logits, 1)
