"""TRADES: the loss on clean images plus a penalty on predictions that change within the ball."""

import torch
from torch import Tensor

from kafnets.attacks.base import Net, at_least_one, positive_and_finite
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.losses import kl_divergence
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.objectives.nearby_start import NearbyStart


class TRADES(Objective):
    """``E [ loss(net(x), y) + beta max_{x' in ball} KL(p(x) || p(x')) ]`` with ``p = softmax(net(.))``.

    Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan 2019 (arXiv 1901.08573, equation 5 and algorithm 1), with the constants of
    the official code: ten steps of 0.007 at eps 0.031, from ``x + 0.001 N(0, 1)``, beta 6. The gradient of the loss
    flows through p(x) as well as p(x'). In the training step the network processes x, then x', in the same mode: the
    running statistics of batch norm are updated by both. (The official code passes x twice.)

    Args:
        beta: weight of the divergence, > 0.
        steps: number of steps of the attack, >= 1.
        step_size: length of a step in input units, a number or ``"2/255"``; None for 0.007 / 0.031 of eps.
        eval_mode: True attacks the network in evaluation mode, as the official code does; False in the mode of the
            training step.

    Raises:
        ValueError: if a setting is out of its range.

    Example:
        >>> print(TRADES().label, TRADES(beta=1.0).label)
        TRADES TRADES(beta=1)
    """

    def __init__(
        self,
        *,
        beta: float = 6.0,
        steps: int = 10,
        step_size: float | str | None = None,
        eval_mode: bool = True,
    ) -> None:
        super().__init__()
        self.beta = positive_and_finite("beta", beta, "; the official value is 6")
        self.attack = NearbyStart(step_size=step_size, steps=at_least_one("steps", steps), loss=kl_divergence)
        self.eval_mode = eval_mode

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the images whose predictions differ most from those on the clean images."""
        with preserve_state(net, eval_mode=self.eval_mode), torch.no_grad():
            clean = ask(net, batch.x)
        attack = self.attack.within(batch.threat)
        return attack.craft(net, batch.x, clean, keys=batch.keys, eval_mode=self.eval_mode)

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the clean loss plus the weighted divergence; the logits are those of ``inputs``."""
        clean, attacked = ask(net, batch.x), ask(net, inputs)
        natural = batch.loss(clean, batch.y).mean()
        divergence = kl_divergence(attacked, clean).mean()
        log = {"natural_loss": natural.detach(), "kl_divergence": divergence.detach()}
        return Terms(natural + self.beta * divergence, attacked, inputs, log)
