"""Cross-entropy with smoothed labels, one value per image."""

import torch.nn.functional as F
from torch import Tensor

from kafnets.described import Described


class LabelSmoothing(Described):
    """``-sum_k q_k log p_k`` for each image, with ``q = (1 - smoothing) onehot(y) + smoothing / classes``.

    Szegedy et al. (2016, "Rethinking the Inception architecture", section 7). It is computed in float32 or better.

    Args:
        smoothing: the share of the target that is spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: if ``smoothing`` is out of its range.

    Example:
        >>> import torch
        >>> LabelSmoothing(smoothing=0.2)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor([0.3269])
    """

    def __init__(self, *, smoothing: float = 0.1) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), got {smoothing:g}")
        self.smoothing = smoothing

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss ``(N,)`` of logits ``(N, classes)`` and true classes, int64 ``(N,)``."""
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=self.smoothing)
