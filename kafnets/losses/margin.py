"""The margin by which a classifier is wrong, and by which it prefers a target class; one value per image."""

from torch import Tensor


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """``max_{j != y} z_j - z_y`` for each image, in float32 or better: positive where the classifier is wrong.

    Unlike that of the cross-entropy, its gradient does not vanish where the network is certain (Carlini and Wagner
    2017, section IV.A, f_6). Where several wrong classes share the largest logit they share the gradient evenly; where
    one of them equals z_y the margin is 0.

    Args:
        logits: ``(N, classes)``, floating point, two classes or more; half precision is raised to float32 first.
        y: int64 ``(N,)``, the true classes, in [0, classes).

    Returns:
        ``(N,)``.

    Raises:
        ValueError: if there are fewer than two classes.

    Example:
        >>> import torch
        >>> margin(torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 1]))
        tensor([-2.,  2.])
    """
    if logits.shape[1] < 2:
        raise ValueError(f"the margin needs at least 2 classes, got {logits.shape[1]}")
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    true = y.unsqueeze(1)
    return logits.scatter(1, true, float("-inf")).amax(1) - logits.gather(1, true).squeeze(1)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """``z_t - z_y`` for each image and its target class t, in float32 or better: positive where z_t is larger.

    With two classes it is the :func:`margin`.

    Args:
        logits: ``(N, classes)``, floating point; half precision is raised to float32 first.
        y: int64 ``(N,)``, the true classes, in [0, classes).
        target: int64 ``(N,)``, the class to reach for each image, in [0, classes).

    Returns:
        ``(N,)``.

    Example:
        >>> import torch
        >>> targeted_margin(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]), torch.tensor([2]))
        tensor([-3.])
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    chosen, true = (logits.gather(1, classes.unsqueeze(1)).squeeze(1) for classes in (target, y))
    return chosen - true
