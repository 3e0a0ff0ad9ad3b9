"""An attack built on one network and judged on another."""

import copy
from typing import Any, Self

from torch import Tensor, nn

from kafnets.attacks.base import Attack, Net
from kafnets.attacks.suite_state import network_digest
from kafnets.threat import ThreatModel


class Transfer(Attack):
    """Attack a surrogate, and see whether the network falls for it too: an attacker without gradients.

    The network itself is only asked for its logits. An honest network stands longer against this than against any
    attack that follows its own gradients; where it does not, those are masked (Athalye, Carlini, Wagner 2018,
    arXiv 1802.00420, section 3.1). :class:`~kafnets.attacks.mifgsm.MIFGSM` is the usual attack, and a network of the
    same kind trained from another seed the usual surrogate.

    Args:
        surrogate: images to logits over the same classes; left as it was found.
        attack: what to run on it, from one start and to the last step: an image that stops at the surrogate's first
            error would be barely wrong there and right elsewhere. Decides eps and norm.

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

    def within(self, threat: ThreatModel) -> Self:
        """The attack in the threat model of a run, on the same surrogate."""
        bound = copy.copy(self)
        bound.attack = self.attack.within(threat)
        bound._face(bound.attack.threat)
        return bound

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor, *, early_stop: bool) -> Tensor:
        """The attack on the surrogate, which goes through every step whatever ``early_stop`` says."""
        return self.attack.craft(self.surrogate, x, y, keys=keys, eval_mode=True)

    def passes(self) -> int:
        """Those of the attack."""
        return self.attack.passes()

    def settings(self) -> dict[str, Any]:
        """Those of the attack, under ``attack_on_surrogate``, and what the surrogate is."""
        surrogate = getattr(self.surrogate, "__name__", type(self.surrogate).__name__)
        weights = network_digest(self.surrogate) if isinstance(self.surrogate, nn.Module) else None
        rest = {"surrogate": surrogate, "surrogate_sha256": weights, "attack_on_surrogate": self.attack.settings()}
        return {**super().settings(), "attack": type(self).__name__, **rest}
