"""Training on clean images."""

from torch import Tensor

from kafnets.attacks.base import Net
from kafnets.attacks.queries import ask
from kafnets.objectives.base import Batch, Objective, Terms


class Clean(Objective):
    """The mean loss on the clean images: ``E loss(net(x), y)``.

    Example:
        >>> print(Clean().label)
        Clean
    """

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the clean images."""
        return batch.x

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the mean loss."""
        logits = ask(net, inputs)
        return Terms(batch.loss(logits, batch.y).mean(), logits, inputs, {})
