"""Whether the gradient of the loss keeps its direction within the ball around an image."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from kafnets.attacks.gradient_estimators import cosines, gradient_at
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.losses import cross_entropy
from kafnets.threat import ThreatModel

Net: TypeAlias = Callable[[Tensor], Tensor]


def gradient_alignment(net: Net, x: Tensor, y: Tensor, threat: ThreatModel, *, keys: Tensor) -> Tensor:
    """``cos(grad_x loss(x, y), grad_x loss(x + eta, y))`` of each image, ``eta`` drawn uniformly from the ball.

    1 where the loss is linear in the ball; near 0 after catastrophic overfitting (Andriushchenko and Flammarion 2020,
    arXiv 2007.02617, equation 3). The network is used in evaluation mode and left as it was.

    Args:
        net: images to logits.
        x: images ``(N, C, H, W)`` in [0, 1].
        y: true classes, int64 ``(N,)``.
        threat: norm and eps of the ball.
        keys: of the images, int64 ``(N,)``: the seeds of ``eta``.

    Returns:
        ``(N,)``, in [-1, 1]; NaN where one of the two gradients is zero.

    Example:
        >>> net = lambda x: x.flatten(1) @ torch.tensor([[1.0, -1.0], [0.0, 2.0]])
        >>> x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
        >>> gradient_alignment(net, x, y, ThreatModel(), keys=torch.tensor([0])).round(decimals=4)
        tensor([1.])
    """
    with preserve_state(net, eval_mode=True):
        here, there = (
            gradient_at(at, cross_entropy(ask(net, at), y.clone()))
            for at in (
                x.detach().clone().requires_grad_(True),
                threat.norm.random_start(x.detach(), threat.eps, keys).requires_grad_(True),
            )
        )
    cosine, usable = cosines(here, there)
    return torch.where(usable, cosine, torch.nan)
