"""Adversarial images made on one network and judged on another."""

import copy
from typing import Any, Self

from torch import Tensor

from kafnets.attacks.base import Attack, Net
from kafnets.attacks.identity import identity_digest
from kafnets.threat import ThreatModel


class Transfer(Attack):
    """Attack a surrogate, and judge the images on the network: an attack without the network's gradients.

    Of the network itself only logits are used. This should fool fewer images than an attack with the network's own
    gradients; where it fools more, those gradients are masked (Athalye, Carlini, Wagner 2018, arXiv 1802.00420,
    section 3.1). :class:`~kafnets.attacks.mifgsm.MIFGSM` is the usual attack, and a network of the same kind trained
    from another seed the usual surrogate.

    Args:
        surrogate: images to logits over the same classes; unchanged afterwards.
        attack: the attack on the surrogate, which decides eps and norm. Every image takes all of its steps: one that
            stopped at the surrogate's first error would be barely misclassified there, and correctly elsewhere.

    Example:
        >>> import torch
        >>> from kafnets.attacks.mifgsm import MIFGSM
        >>> surrogate = lambda x: x @ torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
        >>> attack = Transfer(surrogate=surrogate, attack=MIFGSM(eps=0.1))
        >>> attack(lambda x: surrogate(x) + 0.3 * x, torch.full((1, 2), 0.5), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])
    """

    def __init__(self, *, surrogate: Net, attack: Attack) -> None:
        super().__init__(eps=attack.eps, norm=attack.norm, loss=attack.loss)
        self.surrogate, self.attack = surrogate, attack

    def for_classes(self, classes: int) -> Self:
        """With the attack for so many classes."""
        fitted = copy.copy(self)
        fitted.attack = self.attack.for_classes(classes)
        return fitted

    def within(self, threat: ThreatModel) -> Self:
        """The attack in the threat model of a run, on the same surrogate."""
        bound = copy.copy(self)
        bound.attack = self.attack.within(threat)
        bound._set_threat(bound.attack.threat)
        return bound

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """The attack on the surrogate, with every step whatever ``early_stop`` is."""
        return self.attack.craft(self.surrogate, x, y, keys=keys, eval_mode=True)

    def passes(self) -> int:
        """Those of the attack."""
        return self.attack.passes()

    def settings(self) -> dict[str, Any]:
        """Those of the attack, under ``attack_on_surrogate``, and the name and digest of the surrogate."""
        surrogate = getattr(self.surrogate, "__name__", type(self.surrogate).__name__)
        rest = {
            "surrogate": surrogate,
            "surrogate_sha256": identity_digest(self.surrogate),
            "attack_on_surrogate": self.attack.settings(),
        }
        return {**super().settings(), "attack": type(self).__name__, **rest}
