"""Which images are classified correctly, and checks of logits and labels."""

import torch
from torch import Tensor

from kafnets.device_reads import Later


def is_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the true class has the largest logit; False for rows with a non-finite logit.

    Args:
        logits: ``(N, classes)``, floating point.
        y: int64 ``(N,)``, the true classes.

    Returns:
        bool ``(N,)``.

    Example:
        >>> is_correct(torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), torch.tensor([1, 1]))
        tensor([ True, False])
    """
    return (logits.argmax(1) == y) & torch.isfinite(logits).all(1)


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Raise ``ValueError`` unless ``logits`` are ``(N, classes)`` and every label is one of the classes.

    Example:
        >>> check_logits(torch.zeros(1, 10), torch.tensor([10]))
        Traceback (most recent call last):
        ValueError: labels must lie in [0, 9] for 10 classes, got 10 to 10
    """
    check_shape(logits, len(y))
    LabelRange(y).check(logits.shape[1])


class LabelRange:
    """The smallest and the largest of some labels, int64 ``(N,)``, read from the device when they are checked."""

    def __init__(self, y: Tensor) -> None:
        self._ends = Later(*torch.aminmax(y)) if len(y) else None

    def check(self, classes: int) -> None:
        """Raise ``ValueError`` unless every label is one of ``classes`` classes."""
        low, high = self._ends.read() if self._ends else (0, 0)
        if not 0 <= low <= high < classes:
            raise ValueError(f"labels must lie in [0, {classes - 1}] for {classes} classes, got {low} to {high}")


def check_shape(logits: Tensor, images: int) -> None:
    """Raise ``ValueError`` unless ``logits`` are ``(images, classes)``, for two classes or more.

    Example:
        >>> check_shape(torch.zeros(10), 1)
        Traceback (most recent call last):
        ValueError: the network must return logits (1, classes), got shape (10,)
    """
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network must return a tensor of logits, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != images:
        raise ValueError(f"the network must return logits ({images}, classes), got shape {tuple(logits.shape)}")
    if logits.shape[1] < 2:
        raise ValueError(
            f"the network must return logits of two classes or more, got shape {tuple(logits.shape)}; "
            "one output z of a two-class network is the logits torch.cat([torch.zeros_like(z), z], 1)"
        )


def likely_wrong_classes(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The ``count`` most likely classes other than the true one, most likely first; all of them if there are fewer.

    Args:
        logits: ``(N, classes)``.
        y: int64 ``(N,)``, the true classes.
        count: >= 1.

    Returns:
        int64 ``(N, min(count, classes - 1))``.

    Example:
        >>> likely_wrong_classes(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), 9)
        tensor([[2, 1]])
    """
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1][:, :count]
