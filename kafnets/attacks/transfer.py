"""An attack built on one network and judged on another."""

from typing import Any

from torch import Tensor, nn

from kafnets.attacks.base import Attack, Net
from kafnets.attacks.suite_state import network_digest


class Transfer(Attack):
    """Attack a surrogate, and see whether the network falls for it too: an attacker without gradients.

    The network itself is only asked for its logits. An honest network stands longer against this than against any
    attack that follows its own gradients; where it does not, those are masked (Athalye, Carlini, Wagner 2018,
    arXiv 1802.00420, section 3.1). :class:`~kafnets.attacks.mifgsm.MIFGSM` is the usual attack, and a network of the
    same kind trained from another seed the usual surrogate.

    Args:
        surrogate: images to logits over the same classes; left as it was found.
        attack: what to run on it, with ``early_stop=False``: stopping at the surrogate's first error, an image would be
            barely wrong there and right elsewhere. Decides eps, norm and mode.

    Raises:
        ValueError: if ``attack`` stops early.

    Example:
        >>> import torch
        >>> from kafnets.attacks.mifgsm import MIFGSM
        >>> surrogate = lambda x: x @ torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
        >>> attack = Transfer(surrogate=surrogate, attack=MIFGSM(eps=0.1, early_stop=False))
        >>> attack(lambda x: surrogate(x) + 0.3 * x, torch.full((1, 2), 0.5), torch.tensor([0]))
        tensor([[0.4000, 0.6000]])
    """

    def __init__(self, *, surrogate: Net, attack: Attack) -> None:
        if attack.early_stop:
            raise ValueError(f"{attack} stops at the surrogate's first error, which transfers badly: early_stop=False")
        super().__init__(eps=attack.eps, norm=attack.norm, eval_mode=attack.eval_mode, loss=attack.loss)
        self.surrogate, self.attack = surrogate, attack

    def run(self, net: Net, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """The attack on the surrogate."""
        return self.attack(self.surrogate, x, y, keys=keys)

    def passes(self) -> int:
        """Those of the attack."""
        return self.attack.passes()

    def settings(self) -> dict[str, Any]:
        """Those of the attack, under ``attack_on_surrogate``, and what the surrogate is."""
        surrogate = getattr(self.surrogate, "__name__", type(self.surrogate).__name__)
        weights = network_digest(self.surrogate) if isinstance(self.surrogate, nn.Module) else None
        rest = {"surrogate": surrogate, "surrogate_sha256": weights, "attack_on_surrogate": self.attack.settings()}
        return {**super().settings(), "attack": type(self).__name__, **rest}

    def __str__(self) -> str:
        return f"Transfer of {self.attack}"
