"""Clean and robust accuracy."""

import torch
from torch import Tensor
from torchmetrics import Metric

from kafnets.logits import check_logits, is_correct
from kafnets.metrics.wilson import wilson_interval


class RobustAccuracy(Metric):
    """Share of images classified correctly clean, and clean and attacked, each with a Wilson 95 % interval.

    ``clean = #{clean right} / n`` and ``robust = #{clean right and attacked right} / n``: an image that is wrong
    without an attack is not robust, so robust <= clean always. The counts are integers that are summed over
    processes, so uneven batches and uneven ranks give exactly what one process gives.

    ``update`` takes ``clean_logits`` and ``adv_logits``, floating point ``(N, classes)``, and the true classes ``y``,
    int64 ``(N,)``. A row with a non-finite logit counts as wrong. ``compute`` returns a dictionary of float32 scalars
    in [0, 1] (``clean``, ``clean_low``, ``clean_high``, ``robust``, ``robust_low``, ``robust_high``) and ``images``,
    their number. With no image counted, accuracies are NaN.

    Raises:
        ValueError: if shapes do not fit together, there are fewer than two classes, or labels are not int64 or not one
            of the classes.

    Example:
        >>> metric = RobustAccuracy()
        >>> clean, adv = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
        >>> metric.update(clean, adv, torch.tensor([0, 1, 2, 0]))
        >>> {name: round(value.item(), 2) for name, value in metric.compute().items() if "_" not in name}
        {'clean': 0.75, 'robust': 0.5, 'images': 4}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    clean_right: Tensor
    robust_right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("clean_right", "robust_right", "total"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, clean_logits: Tensor, adv_logits: Tensor, y: Tensor) -> None:
        """Count a batch."""
        if clean_logits.dim() != 2 or clean_logits.shape != adv_logits.shape or y.shape != clean_logits.shape[:1]:
            raise ValueError(
                "clean_logits and adv_logits must be (N, classes) and y (N,), got "
                f"{tuple(clean_logits.shape)}, {tuple(adv_logits.shape)} and {tuple(y.shape)}"
            )
        if y.dtype != torch.int64:
            raise ValueError(f"y must be int64, the numbers of the true classes, got {y.dtype}")
        check_logits(clean_logits, y)
        clean = is_correct(clean_logits, y)
        self.clean_right += clean.sum()
        self.robust_right += (clean & is_correct(adv_logits, y)).sum()
        self.total += len(y)

    def compute(self) -> dict[str, Tensor]:
        """Accuracies and intervals of all images counted so far."""
        total = int(self.total)
        result: dict[str, Tensor] = {}
        for name, right in (("clean", int(self.clean_right)), ("robust", int(self.robust_right))):
            low, high = wilson_interval(right, total)
            values = {name: right / total if total else float("nan"), f"{name}_low": low, f"{name}_high": high}
            result |= {key: torch.tensor(value, device=self.total.device) for key, value in values.items()}
        return result | {"images": self.total.clone()}
