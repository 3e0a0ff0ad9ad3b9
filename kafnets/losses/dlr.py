"""The difference of logits ratio, one value per image: a margin that does not depend on the scale of the logits."""

import torch
from torch import Tensor

from kafnets.losses.margin import margin, targeted_margin


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """``-(z_y - max_{j != y} z_j) / (z_pi1 - z_pi3)`` for each image (Croce and Hein 2020, equation 6).

    ``z_pi1 >= z_pi2 >= ...`` are the sorted logits. The value lies in [-1, 1] where the network is right or the true
    class is among the first three, is positive where it is wrong, and is the same for ``a z + b``, a > 0: unlike that
    of the cross-entropy, its gradient does not vanish for large logits. Where the first three logits are equal, and
    the ratio is not defined, it is the plain margin.

    Args:
        logits: ``(N, classes)``, floating point, three classes or more; half precision is raised to float32 first.
        y: int64 ``(N,)``, the true classes, in [0, classes).

    Returns:
        ``(N,)``.

    Raises:
        ValueError: if there are fewer than three classes.

    Example:
        >>> logits, y = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 1])
        >>> dlr(logits, y), dlr(1000 * logits, y)
        (tensor([-0.6667,  0.6667]), tensor([-0.6667,  0.6667]))
    """
    first = _largest(logits, 3)
    return _ratio(margin(logits, y), first[:, 0] - first[:, 2])


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``-(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2)`` for each image (Croce and Hein 2020, equation 7).

    Positive where the logit of the target class t is larger than that of the true one, so that maximising it
    misclassifies as t, and unchanged by ``a z + b``, a > 0. Where the first four logits are equal it is the plain
    difference ``z_t - z_y``.

    Args:
        logits: ``(N, classes)``, floating point, four classes or more; half precision is raised to float32 first.
        y: int64 ``(N,)``, the true classes, in [0, classes).
        target: int64 ``(N,)``, the class to reach for each image, in [0, classes).

    Returns:
        ``(N,)``.

    Raises:
        ValueError: if there are fewer than four classes.

    Example:
        >>> targeted_dlr(torch.tensor([[4.0, 2.0, 1.0, 1.0]]), torch.tensor([0]), torch.tensor([3]))
        tensor([-1.])
    """
    first = _largest(logits, 4)
    return _ratio(targeted_margin(logits, y, target), first[:, 0] - (first[:, 2] + first[:, 3]) / 2)


def _largest(logits: Tensor, count: int) -> Tensor:
    """The ``count`` largest logits of each image, in descending order, in float32 or better."""
    if logits.shape[1] < count:
        raise ValueError(
            f"this ratio of logits needs at least {count} classes, got {logits.shape[1]}; maximise the margin instead"
        )
    return (logits.float() if logits.dtype.itemsize < 4 else logits).topk(count, dim=1).values


def _ratio(difference: Tensor, spread: Tensor) -> Tensor:
    # a spread of zero is replaced before the division: where() after it would leave NaN in the gradient
    return difference / torch.where(spread > 0, spread, torch.ones_like(spread))


# read by attacks before they begin
dlr.fewest_classes = 3  # type: ignore[attr-defined]
targeted_dlr.fewest_classes = 4  # type: ignore[attr-defined]
