"""ELLE: training with a loss that is nearly linear within the ball."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from kafnets.attacks import FGSM
from kafnets.attacks.base import Net, positive_and_finite
from kafnets.attacks.queries import ask
from kafnets.keyed_random import image_keys, uniform
from kafnets.objectives.adversarial import Adversarial
from kafnets.objectives.around import Around
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.objectives.over_processes import mean_over_processes
from kafnets.threat import per_image


class ELLE(Around):
    """Another objective plus ``weight E (l(x_c) - (1 - a) l(x_a) - a l(x_b))^2``, where ``l(z) = loss(net(z), y)``.

    ``x_a`` and ``x_b`` are drawn uniformly from the ball around each image, ``a`` from [0, 1], and
    ``x_c = (1 - a) x_a + a x_b``: the penalty is zero where the loss is linear. It prevents catastrophic overfitting
    without the gradient of a gradient (Abad Rocamora, Liu, Chrysos, Olmos, Cevher 2024, arXiv 2401.11618, and their
    code). As there, the points pass the network in one batch of three times the size, in the mode of the training step,
    and running statistics of batch norm count it. Unlike there, they are clipped to [0, 1] and pass without dropout:
    under three different masks the losses would never lie on a line. Nor do they pass under autocast: times such a
    weight, the rounding of bfloat16 would be a penalty of its own, which no training can lower. In mixed precision this
    pass, in the dtype of the weights, is therefore slower than the others.

    With ``adaptive=True`` (the authors' ELLE-A) the weight is 0 at first. After a step whose penalty is more than two
    standard deviations above the mean of all earlier ones it becomes ``weight``, after any other step it falls by 1 %.
    With several processes the mean penalty decides.

    Args:
        weight: weight of the penalty, > 0. The authors use 4000 if it is adaptive, otherwise 1000 up to eps 8/255,
            5000 from 10/255 to 20/255 and 10000 from 22/255.
        adaptive: whether the weight follows the penalty.
        objective: the objective that the penalty is added to; FGSM from the image itself by default, as in the paper.

    Raises:
        ValueError: if ``weight`` is out of its range.

    Example:
        >>> from kafnets.objectives import NFGSM
        >>> print(ELLE().label, ELLE(adaptive=False, weight=1000.0, objective=NFGSM()).label)
        ELLE ELLE(adaptive=False, weight=1000, objective=NFGSM)
    """

    steps: Tensor
    mean: Tensor
    deviations: Tensor
    share: Tensor

    def __init__(self, *, weight: float = 4000.0, adaptive: bool = True, objective: Objective | None = None) -> None:
        super().__init__(objective or Adversarial(attack=FGSM(alpha=1.0, random_start=False)))
        self.weight = positive_and_finite("weight", weight, "; the authors use 4000 if it is adaptive")
        self.adaptive = adaptive
        # number, mean and summed squared deviations of the penalties so far; the share of the weight that counts
        for name in ("steps", "mean", "deviations"):
            self.register_buffer(name, torch.tensor(0.0))
        self.register_buffer("share", torch.tensor(0.0 if adaptive else 1.0))

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the inner objective plus the weighted penalty."""
        terms = super().loss(net, batch, inputs)
        error, weight = _linearity_error(net, batch), self.weight * self.share
        log = {"linearity_error": error.detach(), "linearity_weight": weight}
        return terms._replace(loss=terms.loss + weight * error, log=terms.log | log)

    def after_backward(self, batch: Batch, terms: Terms) -> None:
        """Adapt the weight of the next step."""
        super().after_backward(batch, terms)
        if self.adaptive:
            self._adapt(mean_over_processes(terms.log["linearity_error"]))

    def _adapt(self, error: Tensor) -> None:
        limit = self.mean + 2 * (self.deviations / self.steps.clamp_min(1)).sqrt()
        rises = (self.steps > 2) & (error > limit)
        self.share.copy_(torch.where(rises, 1.0, 0.99 * self.share))
        # Welford (1962): the mean and the squared deviations from it, without a list of all values
        self.steps += 1
        before = error - self.mean
        self.mean += before / self.steps
        self.deviations += before * (error - self.mean)


def _linearity_error(net: Net, batch: Batch) -> Tensor:
    """Return the mean squared difference between the loss at a point and that of the line through two others."""
    x, ball = batch.x.detach(), batch.threat
    first, second = (ball.norm.random_start(x, ball.eps, image_keys(batch.keys, salt)) for salt in (1, 2))
    share = uniform(image_keys(batch.keys, 3), ()).to(x.dtype)
    between = torch.lerp(first, second, per_image(share, x))
    with _without_dropout(net), torch.autocast(x.device.type, enabled=False):
        logits = ask(net, torch.cat([first, second, between]))
        at_first, at_second, at_between = batch.loss(logits, batch.y.repeat(3)).chunk(3)
        return (at_between - torch.lerp(at_first, at_second, share.to(at_first.dtype))).square().mean()


@contextmanager
def _without_dropout(net: Net) -> Iterator[None]:
    modules = net.modules() if isinstance(net, nn.Module) else ()
    active = [module for module in modules if isinstance(module, _DropoutNd) and module.training]
    for module in active:
        module.training = False
    try:
        yield
    finally:
        for module in active:
            module.training = True
