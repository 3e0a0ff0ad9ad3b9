"""Cross-entropy, one value per image."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """``log sum_j exp(z_j) - z_y`` for each image, in float32 or better.

    Attacks sum it (in half precision a mean over the batch rounds small input gradients to zero), training averages it.

    Args:
        logits: ``(N, classes)``, floating point; half precision is raised to float32 first.
        y: int64 ``(N,)``, the true classes, in [0, classes).

    Returns:
        ``(N,)``, >= 0.

    Example:
        >>> import torch
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931])
    """
    return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, y, reduction="none")
