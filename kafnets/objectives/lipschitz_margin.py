"""Lipschitz margin training: every image shall have a margin that no small perturbation can use up."""

import torch
from torch import Tensor

from kafnets.attacks.base import Net
from kafnets.attacks.queries import ask
from kafnets.certify.training import lipschitz_pairs
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.threat import L2, ThreatModel


class LipschitzMargin(Objective):
    """``E loss(z, y)`` with ``z_y = net(x)_y`` and ``z_j = net(x)_j + eps L_yj``, L the network's Lipschitz bounds.

    Tsuzuku, Sato, Sugiyama 2018 (arXiv 1802.04034, section 5.1) add ``sqrt(2) eps L`` with the bound L of all logits;
    here ``L_yj`` bounds the difference of two logits, which is at most that. Where the true class still has the largest
    z, no perturbation of L2 norm eps changes the class. Unlike there, L is a bound of each layer at its true padding
    and stride instead of an estimate by power iteration.

    L is that of the running statistics of batch norm. The network must be one that bounds know
    (:func:`kafnets.certify.steps.steps_of`), with pointwise activations.

    Raises:
        ValueError: (when called) if the norm of the run is not L2, or the network has no bound.

    Example:
        >>> print(LipschitzMargin().label)
        LipschitzMargin
    """

    def check_threat(self, threat: ThreatModel) -> None:
        """Raise ``ValueError`` unless the norm is L2."""
        if not isinstance(threat.norm, L2):
            raise ValueError(f"LipschitzMargin bounds an L2 ball, got {threat}; set --model.threat.norm=L2")

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the clean images."""
        return batch.x

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the mean loss of the shifted logits; the logits are those of the network."""
        self.check_threat(batch.threat)
        logits = ask(net, inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            channels, height, width = inputs.shape[1:]
            pairs = lipschitz_pairs(net, (channels, height, width))
        shift = (batch.threat.eps * pairs[batch.y]).scatter(1, batch.y[:, None], 0.0)
        shifted = logits + shift
        others = shifted.scatter(1, batch.y[:, None], -torch.inf).amax(1)
        sure = (logits.gather(1, batch.y[:, None])[:, 0] > others).float().mean()
        log = {"lipschitz_bound": pairs.detach().amax(), "certified_accuracy": sure}
        return Terms(batch.loss(shifted, batch.y).mean(), logits, inputs, log)
