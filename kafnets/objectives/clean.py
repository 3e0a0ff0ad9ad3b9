"""Training on clean images."""

from torch import Tensor

from kafnets.attacks.base import Loss, Net
from kafnets.attacks.queries import ask
from kafnets.losses import cross_entropy
from kafnets.objectives.base import Batch, Objective, Terms


class Clean(Objective):
    """The mean loss on the clean images: ``E loss(net(x), y)``.

    Args:
        loss: ``(logits (N, classes), y (N,)) -> (N,)``; the cross-entropy by default.

    Example:
        >>> print(Clean().label)
        Clean
    """

    def __init__(self, *, loss: Loss = cross_entropy) -> None:
        super().__init__()
        self.image_loss = loss

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the clean images."""
        return batch.x

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the mean loss."""
        logits = ask(net, inputs)
        return Terms(self.image_loss(logits, batch.y).mean(), logits, inputs, {})
