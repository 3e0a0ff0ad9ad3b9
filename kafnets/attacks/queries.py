"""The network as an attack calls it: it gets a copy of the images, and its logits are checked."""

import warnings

import torch
from torch import Tensor

from kafnets.attacks.gradient_estimators import Net
from kafnets.logits import LabelRange, check_shape, is_correct


def ask(net: Net, x: Tensor) -> Tensor:
    """What a network returns for a copy of the images, ``net(x.clone())``.

    A network may write into its input, as ``torchvision.transforms.Normalize(inplace=True)`` does. The copy is part of
    the graph: gradients with respect to ``x`` are those without it.

    Example:
        >>> x = torch.tensor([[0.5, 1.0]])
        >>> ask(lambda x: x.sub_(0.5), x), x
        (tensor([[0.0000, 0.5000]]), tensor([[0.5000, 1.0000]]))
    """
    return net(x.clone())


class QueriedNet:
    """A network that gets copies of the images, and whose logits are checked: their shape at every call, the labels
    against it at the first.

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
        logits = ask(self.net, x)
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
    """A network attacked in evaluation, whose gradients are watched.

    Gradients that are not finite are refused: no attack can follow them. Gradients that are exactly zero are reported:
    the attack does not move, and finds no error whether there are any or not.

    Args:
        net, labels: see :class:`QueriedNet`.
        attack: the name of the attack, for messages.
    """

    def __init__(self, net: Net, labels: Tensor, attack: str) -> None:
        super().__init__(net, labels)
        self.attack = attack
        self._unusable: Tensor | None = None
        self._flat: Tensor | None = None

    def watch(self, grad: Tensor, logits: Tensor, y: Tensor, *, refuse_now: bool) -> None:
        """Record whether gradients at images that are classified correctly are not finite, or all of them zero.

        Args:
            grad: ``(N, ...)``, one or several gradients of each image.
            logits: ``(N, classes)`` at the same images.
            y: int64 ``(N,)``, their true classes.
            refuse_now: call :meth:`refuse_unusable`, which waits for the device.
        """
        grad, correct = grad.flatten(1), is_correct(logits, y)
        high, low = grad.amax(1), grad.amin(1)
        unusable = (~(torch.isfinite(high) & torch.isfinite(low)) & correct).any()
        self._unusable = unusable if self._unusable is None else self._unusable | unusable
        # the last step decides: it has those images that the attack has not fooled
        self._flat = correct.any() & ~(((high != 0) | (low != 0)) & correct).any()
        if refuse_now:
            self.refuse_unusable()

    def refuse_unusable(self) -> None:
        """Raise ``ValueError`` if a gradient that is not finite has been recorded since the last call."""
        unusable, self._unusable = self._unusable, None
        if unusable is not None and bool(unusable):
            raise ValueError(f"{self.attack}: the gradient of the network is not finite, so no attack can follow it")

    def warn_if_flat(self) -> None:
        """Warn if the gradients recorded last were all zero: those of the images that the attack could not fool."""
        flat, self._flat = self._flat, None
        if flat is not None and bool(flat):
            warnings.warn(
                f"{self.attack}: the gradient is exactly zero at every image that is still classified correctly, so "
                "the attack cannot move them, and the robust accuracy says nothing. Saturated logits, rounding, "
                "detach() or a layer without a slope cause this. Attack the margin (loss=margin), replace the layer's "
                "gradient (BPDA), or use outputs alone: Square, or PGD with estimator=FiniteDifferences()",
                stacklevel=4,
            )
