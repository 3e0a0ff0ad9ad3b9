"""IBP: training on interval bounds of the logits."""

import torch
from torch import Tensor

from kafnets.attacks.base import Net
from kafnets.certify.training import interval_logits
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.threat import Linf, ThreatModel


class IBP(Objective):
    """``E [ k loss(net(x), y) + (1 - k) loss(z, y) ]``, z the worst logits that interval bounds allow in the ball.

    Gowal, Dvijotham, Stanforth et al. 2018 (arXiv 1810.12715, equation 12): the true class gets its lower bound and
    every other its upper bound; a dense last layer is merged with the differences of logits. k falls linearly from 1 to
    ``kappa`` during the first ``ramp`` epochs, while eps should rise from 0
    (``--model.eps_schedule=WarmUp --model.eps_schedule.until=0.5``).

    The network must be one that bounds know (:func:`kafnets.certify.steps.steps_of`), and not one with shifted weights:
    AWP cannot be around it.

    Args:
        kappa: weight of the clean loss after the ramp, in [0, 1]; the authors have 0.5.
        ramp: number of epochs, >= 0.

    Raises:
        ValueError: if a setting is out of its range, or (when called) the norm is not Linf or a bound is unknown.

    Example:
        >>> print(IBP().label, IBP(kappa=0.0).label)
        IBP IBP(kappa=0)
    """

    def __init__(self, *, kappa: float = 0.5, ramp: float = 10.0) -> None:
        super().__init__()
        if not 0 <= kappa <= 1:
            raise ValueError(f"kappa must lie in [0, 1], got {kappa:g}; the authors have 0.5")
        if not 0 <= ramp < float("inf"):
            raise ValueError(f"ramp, a number of epochs, must be >= 0 and finite, got {ramp:g}")
        self.kappa, self.ramp = kappa, ramp

    def check_threat(self, threat: ThreatModel) -> None:
        """Raise ``ValueError`` unless the norm is Linf."""
        if not isinstance(threat.norm, Linf):
            raise ValueError(f"IBP bounds an Linf ball, got {threat}; set --model.threat.norm=Linf")

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the clean images."""
        return batch.x

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the weighted sum of both losses; the logits are those of the images."""
        self.check_threat(batch.threat)
        logits, worst = interval_logits(net, inputs, batch.y, batch.threat.eps)
        natural, bound = batch.loss(logits, batch.y).mean(), batch.loss(worst, batch.y).mean()
        share = min(batch.epoch / self.ramp, 1.0) if self.ramp else 1.0
        kappa = 1 - (1 - self.kappa) * share
        sure = (worst.scatter(1, batch.y[:, None], -torch.inf).amax(1) < 0).float().mean()
        log = {"natural_loss": natural.detach(), "bound_loss": bound.detach(), "certified_accuracy": sure}
        return Terms(kappa * natural + (1 - kappa) * bound, logits, inputs, log)
