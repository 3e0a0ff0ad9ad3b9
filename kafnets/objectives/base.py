"""The interface of objectives: what one training step minimises."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from kafnets.attacks.base import Loss, Net
from kafnets.described import Described
from kafnets.losses import cross_entropy
from kafnets.threat import ThreatModel


class Batch(NamedTuple):
    """The input of an objective.

    Attributes:
        x: images, float32 ``(N, C, H, W)`` in [0, 1].
        y: true classes, int64 ``(N,)``.
        keys: int64 ``(N,)``, from which the random numbers of each image are drawn; other ones in every epoch.
        epoch: progress of training in epochs, fractional.
        threat: the threat model of this step.
        loss: the classification loss of the run, ``(logits (N, classes), y (N,)) -> (N,)``.
    """

    x: Tensor
    y: Tensor
    keys: Tensor
    epoch: float
    threat: ThreatModel
    loss: Loss = cross_entropy


class Terms(NamedTuple):
    """The output of an objective.

    Attributes:
        loss: scalar with its graph; training descends along its gradient.
        logits: ``(N, classes)`` on ``inputs``; the training accuracy is computed from them.
        inputs: the images trained on, ``(N, C, H, W)``.
        log: further figures to log, scalars by name.
    """

    loss: Tensor
    logits: Tensor
    inputs: Tensor
    log: dict[str, Tensor]


class Objective(Described, nn.Module, ABC):
    """What one training step minimises, in two stages: craft the images to train on, then take the loss on them.

    The stages are separate so that an objective can wrap another one: AWP crafts the images at the current weights and
    takes the loss at shifted weights.

    ``net`` is in the mode that the training loop has set. In :meth:`craft` it is a module that may be attacked with
    :meth:`kafnets.attacks.Attack.craft`, which restores modes and running statistics. In :meth:`loss` it is any
    callable from images to logits whose graph reaches the parameters; it may write into its input, so an objective
    calls it through :func:`kafnets.attacks.queries.ask`. An objective never changes a mode, a parameter or a ``.grad``;
    state of its own belongs in buffers, which checkpoints save.

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

    replays: int = 1  # number of steps on every batch

    @property
    def single_step(self) -> bool:
        """Whether the images come from a single gradient step, so that catastrophic overfitting is to be feared."""
        return False

    def check_threat(self, threat: ThreatModel) -> None:
        """Raise ``ValueError`` if it cannot train in a threat model; by default it can in each."""

    @abstractmethod
    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the images to train on, of the shape of ``batch.x``, without a graph to the parameters."""

    @abstractmethod
    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the loss on ``inputs``, the images that :meth:`craft` returned for this batch."""

    def forward(self, net: Net, batch: Batch) -> Terms:
        """Run both stages."""
        return self.loss(net, batch, self.craft(net, batch))

    def after_backward(self, batch: Batch, terms: Terms) -> None:
        """Called after the backward pass of a step, before the weights change; by default it does nothing."""
