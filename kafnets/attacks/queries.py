"""A network as an attack asks it: every answer is checked."""

import torch
from torch import Tensor

from kafnets.attacks.gradient_estimators import Estimate, Net
from kafnets.logits import check_labels, check_shape, is_correct


class QueriedNet:
    """Images to logits; the shape of the logits is checked at every call, the labels against it at the first.

    Args:
        net: the network.
        labels: true classes, int64 ``(N,)``, or soft targets ``(N, classes)``.
    """

    def __init__(self, net: Net, labels: Tensor) -> None:
        self.net = net
        self._unchecked = [labels]

    def __call__(self, x: Tensor) -> Tensor:
        """The logits ``(len(x), classes)``."""
        logits = self.net(x)
        check_shape(logits, len(x))
        if self._unchecked:
            labels = self._unchecked.pop()  # reading labels waits for the device, so they are read once
            if labels.dim() == 1:
                check_labels(labels, logits.shape[1])
            elif labels.shape[1:] != logits.shape[1:]:
                raise ValueError(f"targets {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}")
        return logits


class TrainedNet(QueriedNet):
    """A network that images to train on are made for: a gradient that is not finite shows in the loss."""


class EvaluatedNet(QueriedNet):
    """A network whose robustness is measured: a gradient that can't be followed would let it pass for robust.

    Args:
        net, labels: see :class:`QueriedNet`.
        attack: the name of the attack, for errors.
    """

    def __init__(self, net: Net, labels: Tensor, attack: str) -> None:
        super().__init__(net, labels)
        self.attack = attack
        self._unusable: Tensor | None = None

    def watch(self, found: Estimate, y: Tensor, *, look: bool) -> None:
        """Note images that are classified correctly and whose gradient is not finite; ``look``: refuse them now."""
        grad = found.grad.flatten(1)
        finite = torch.isfinite(grad.amax(1)) & torch.isfinite(grad.amin(1))
        unusable = (~finite & is_correct(found.logits, y)).any()
        self._unusable = unusable if self._unusable is None else self._unusable | unusable
        if look:
            self.refuse_unusable()

    def refuse_unusable(self) -> None:
        """Raise ``ValueError`` if a gradient was noted that can't be followed."""
        unusable, self._unusable = self._unusable, None
        if unusable is not None and bool(unusable):
            raise ValueError(f"{self.attack}: the gradient of the network is not finite, so no attack can follow it")
