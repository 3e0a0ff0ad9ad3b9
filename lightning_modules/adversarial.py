"""Training on attacked images."""

from typing import Any

from torch import Tensor

from kafnets.attacks import FGSM, Attack
from lightning_modules.classifier import Classifier


class AdversarialTraining(Classifier):
    """Train on the worst images an attack finds: ``min_w E max_{delta in ball} loss(net_w(x + delta), y)``.

    With :class:`~kafnets.attacks.FGSM` it is fast adversarial training (Wong, Rice, Kolter 2020), with
    :class:`~kafnets.attacks.PGD` that of Madry et al. (2018). One attack and one weight step a batch.

    Args:
        attack: the attack trained against. Give it ``early_stop=False``, so that every image goes through every step;
            ``eval_mode=False`` attacks the network as it trains (batch statistics, dropout), as both papers do.
        kwargs: see :class:`~lightning_modules.classifier.Classifier`.
    """

    def __init__(self, *, attack: Attack | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attack = attack or FGSM(early_stop=False, eval_mode=False)

    def training_inputs(self, x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
        """The attacked images."""
        return self.attack(self.net, x, y, keys=keys)

    def training_labels(self) -> dict[str, Any]:
        """Name and radius of the attack trained against."""
        return {"attack": type(self.attack).__name__, "eps": self.attack.eps}
