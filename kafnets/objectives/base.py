"""What one training step minimises: the interface that every objective fulfils."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from kafnets.attacks.base import Net
from kafnets.described import Described
from kafnets.threat import ThreatModel


class Batch(NamedTuple):
    """What a training step knows.

    Attributes:
        x: images, float32 ``(N, C, H, W)`` in [0, 1].
        y: true classes, int64 ``(N,)``.
        keys: int64 ``(N,)``, what the random numbers of each image are drawn from in this epoch.
        epoch: how far training is, in epochs, a real number.
        threat: the threat model at this moment of the run.
    """

    x: Tensor
    y: Tensor
    keys: Tensor
    epoch: float
    threat: ThreatModel


class Terms(NamedTuple):
    """What an objective makes of a batch.

    Attributes:
        loss: scalar with its graph; training descends along its gradient.
        logits: ``(N, classes)`` on the images trained on, for the accuracy.
        inputs: the images trained on, ``(N, C, H, W)``.
        log: further figures to log, scalars by name.
    """

    loss: Tensor
    logits: Tensor
    inputs: Tensor
    log: dict[str, Tensor]


class Objective(Described, nn.Module, ABC):
    """What one training step minimises, in two stages: craft the images to train on, then the loss on them.

    The stages are apart so that an objective can be built around another one: the images are crafted at the weights as
    they are, and the loss may be taken at shifted weights (AWP), or again (Free).

    ``net`` is the network itself, in the mode that the training loop has put it into. In :meth:`craft` it is a module
    that may be attacked with :meth:`kafnets.attacks.Attack.craft`, which puts modes and running statistics back. In
    :meth:`loss` it is any callable from images to logits whose graph reaches the parameters. An objective never changes
    a mode, a parameter or a ``.grad``; its own state belongs into buffers, which checkpoints hold.

    Example:
        >>> import torch
        >>> from kafnets.objectives import Adversarial
        >>> net = nn.Linear(4, 3)
        >>> x, y, keys = torch.rand(2, 4), torch.tensor([0, 2]), torch.arange(2)
        >>> terms = Adversarial()(net, Batch(x, y, keys, epoch=0.0, threat=ThreatModel(eps=0.1)))
        >>> terms.loss.backward()
        >>> terms.logits.shape, bool(((terms.inputs - x).abs() <= 0.1).all())
        (torch.Size([2, 3]), True)
    """

    replays: int = 1  # how often in a row a batch comes back

    @abstractmethod
    def craft(self, net: Net, batch: Batch) -> Tensor:
        """The images to train on, of the shape of ``batch.x``, without a graph to the parameters."""

    @abstractmethod
    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """The loss on images that :meth:`craft` made of this batch."""

    def forward(self, net: Net, batch: Batch) -> Terms:
        """Both stages."""
        return self.loss(net, batch, self.craft(net, batch))

    def after_backward(self, batch: Batch, terms: Terms) -> None:
        """Called when the gradients of a step are there, before the weights move; most objectives need nothing."""
