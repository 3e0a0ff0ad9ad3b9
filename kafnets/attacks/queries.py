"""The network as an attack calls it: its logits are checked."""

import torch
from torch import Tensor

from kafnets.attacks.gradient_estimators import Estimate, Net
from kafnets.logits import LabelRange, check_shape, is_correct


class QueriedNet:
    """A network whose logits are checked: their shape at every call, the labels against it at the first.

    Args:
        net: images to logits.
        labels: true classes, int64 ``(N,)``, or soft targets ``(N, classes)``.
    """

    def __init__(self, net: Net, labels: Tensor) -> None:
        self.net = net
        self._targets = labels if labels.dim() == 2 else None
        # asked for before the network is called, so that the device has work while they are read
        self._labels = LabelRange(labels) if labels.dim() == 1 else None

    def __call__(self, x: Tensor) -> Tensor:
        """The logits ``(len(x), classes)``."""
        logits = self.net(x)
        check_shape(logits, len(x))
        if self._labels is not None:
            self._labels.check(logits.shape[1])
            self._labels = None
        if self._targets is not None and self._targets.shape[1:] != logits.shape[1:]:
            raise ValueError(f"targets {tuple(self._targets.shape)} do not fit logits of shape {tuple(logits.shape)}")
        return logits


class TrainedNet(QueriedNet):
    """A network attacked in training. Gradients are not checked: one that is not finite shows in the training loss."""


class EvaluatedNet(QueriedNet):
    """A network attacked in evaluation. Gradients that are not finite are refused: no attack can follow them.

    Args:
        net, labels: see :class:`QueriedNet`.
        attack: the name of the attack, for error messages.
    """

    def __init__(self, net: Net, labels: Tensor, attack: str) -> None:
        super().__init__(net, labels)
        self.attack = attack
        self._unusable: Tensor | None = None

    def watch(self, found: Estimate, y: Tensor, *, refuse_now: bool) -> None:
        """Record whether the gradient at an image that is classified correctly is not finite.

        ``refuse_now``: call :meth:`refuse_unusable`, which waits for the device.
        """
        grad = found.grad.flatten(1)
        finite = torch.isfinite(grad.amax(1)) & torch.isfinite(grad.amin(1))
        unusable = (~finite & is_correct(found.logits, y)).any()
        self._unusable = unusable if self._unusable is None else self._unusable | unusable
        if refuse_now:
            self.refuse_unusable()

    def refuse_unusable(self) -> None:
        """Raise ``ValueError`` if such a gradient has been recorded since the last call."""
        unusable, self._unusable = self._unusable, None
        if unusable is not None and bool(unusable):
            raise ValueError(f"{self.attack}: the gradient of the network is not finite, so no attack can follow it")
