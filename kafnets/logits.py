"""What is asked of the logits of any network."""

import torch
from torch import Tensor


def is_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Whether the largest logit is the true class's; a row with a non-finite logit never is.

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
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise ValueError(
            f"labels must lie in [0, {logits.shape[1] - 1}] for {logits.shape[1]} classes, "
            f"got {int(y.min())} to {int(y.max())}"
        )


def check_shape(logits: Tensor, images: int) -> None:
    """Raise ``ValueError`` unless ``logits`` are ``(images, classes)``.

    Example:
        >>> check_shape(torch.zeros(10), 1)
        Traceback (most recent call last):
        ValueError: the network must return logits (1, classes), got shape (10,)
    """
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network must return a tensor of logits, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != images:
        raise ValueError(f"the network must return logits ({images}, classes), got shape {tuple(logits.shape)}")
