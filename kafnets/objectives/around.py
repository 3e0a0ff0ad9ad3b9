"""Objectives that are built around another one."""

from torch import Tensor

from kafnets.attacks.base import Net
from kafnets.objectives.base import Batch, Objective, Terms
from kafnets.threat import ThreatModel


class Around(Objective):
    """An objective around another one: it does what that does, where a subclass says nothing else.

    Args:
        objective: the inner objective.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.replays = objective.replays

    @property
    def single_step(self) -> bool:
        """Whether the inner objective takes a single step."""
        return self.objective.single_step

    def check_threat(self, threat: ThreatModel) -> None:
        """Ask the inner objective."""
        self.objective.check_threat(threat)

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the images of the inner objective, crafted at the weights as they are."""
        return self.objective.craft(net, batch)

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the inner objective."""
        return self.objective.loss(net, batch, inputs)

    def after_backward(self, batch: Batch, terms: Terms) -> None:
        """Let the inner objective read the gradients of the step."""
        self.objective.after_backward(batch, terms)
