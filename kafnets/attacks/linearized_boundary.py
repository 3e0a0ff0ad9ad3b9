"""The nearest decision boundary of a classifier that is linearised at an image."""

import torch
from torch import Tensor

from kafnets.attacks.base import Net, is_sync_due
from kafnets.attacks.gradient_estimators import gradient_at
from kafnets.attacks.queries import EvaluatedNet
from kafnets.threat import Norm


def nearest_boundary(
    norm: Norm, net: Net, x: Tensor, y: Tensor, classes: Tensor, step: int = 0
) -> tuple[Tensor, Tensor]:
    """The nearest boundary between the true class and some others, in the network linearised at each image.

    For class k that boundary is ``gap_k + w_k . d = 0`` with ``gap_k = z_k - z_y`` and ``w_k`` its gradient; its
    distance is ``|gap_k| / ||w_k||_*`` (Moosavi-Dezfooli et al. 2016, eq. 8 and 11).

    Args:
        norm: of the distance; ``||w||_*`` is the gain along a step ``norm.direction(w)``.
        net: images to logits; an :class:`~kafnets.attacks.queries.EvaluatedNet` refuses gradients that are not finite.
        x: images ``(N, ...)``.
        y: int64 ``(N,)``, the true classes.
        classes: int64 ``(N, k)``, k >= 1; costs k backward passes.
        step: number of the step of the attack, see :func:`~kafnets.attacks.base.is_sync_due`.

    Returns:
        gap ``(N,)`` (< 0 where the logit of y is larger), and w of the shape of ``x``.

    Raises:
        ValueError: if no gradient reaches the images, or (in evaluation) if one at an image that is classified
            correctly is not finite.

    Example:
        >>> from kafnets.threat import L2
        >>> net = lambda x: x @ torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 4.0]])
        >>> nearest_boundary(L2(), net, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([[1, 2]]))
        (tensor([-1.]), tensor([[-1.,  4.]]))
    """
    x = x.detach().requires_grad_(True)
    logits = net(x)
    gaps = logits.gather(1, classes) - logits.gather(1, y.unsqueeze(1))
    count = classes.shape[1]
    slopes = [gradient_at(x, gap, retain_graph=k + 1 < count) for k, gap in enumerate(gaps.unbind(1))]
    gaps = gaps.detach()
    if isinstance(net, EvaluatedNet):
        net.watch(torch.stack(slopes, 1), logits.detach(), y, refuse_now=is_sync_due(step, x.device))
    if count == 1:
        return gaps[:, 0], slopes[0]
    distances = [_distance(norm, gap, slope) for gap, slope in zip(gaps.unbind(1), slopes, strict=True)]
    nearest = torch.stack(distances, 1).argmin(1)
    index = torch.arange(len(x), device=x.device)
    return gaps[index, nearest], torch.stack(slopes, 1)[index, nearest]


def gain(norm: Norm, w: Tensor) -> Tensor:
    """``||w||_*``, the most that ``w . d`` can be for a ``d`` of size 1: ``(N, ...)`` to ``(N,)``."""
    return (w * norm.direction(w)).flatten(1).sum(1)


def _distance(norm: Norm, gap: Tensor, slope: Tensor) -> Tensor:
    """The distance to a boundary; infinite where the slope is zero."""
    slope_size = gain(norm, slope)
    return torch.where(slope_size > 0, gap.abs() / slope_size.clamp_min(1e-30), torch.inf)
