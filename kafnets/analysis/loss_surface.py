"""The loss around images, along the direction of an attack and along a random one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from kafnets.attacks.gradient_estimators import gradient_at
from kafnets.attacks.preserve_state import preserve_state
from kafnets.attacks.queries import ask
from kafnets.keyed_random import normal
from kafnets.losses import cross_entropy
from kafnets.threat import ThreatModel

Net: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LossSurface:
    """The cross-entropy at ``clip(x + a g + b r, 0, 1)``, on the CPU.

    ``g`` is the steepest direction of the norm (in Linf the sign of the gradient) and ``r`` a random one, each of
    length eps.

    Attributes:
        steps: ``(P,)``, the values of a and of b, increasing, with 0 in the middle.
        loss: ``(N, P, P)``, ``loss[i, j, k]`` of image i at ``a = steps[j]``, ``b = steps[k]``.
    """

    steps: Tensor
    loss: Tensor

    @property
    def bend(self) -> Tensor:
        """``L(x + g) - 2 L(x) + L(x - g)``, ``(N,)``: 0 where the loss is linear along g."""
        middle, line = len(self.steps) // 2, self.loss[:, :, len(self.steps) // 2]
        one = int((self.steps - 1).abs().argmin())
        return line[:, one] - 2 * line[:, middle] + line[:, 2 * middle - one]


def loss_surface(
    net: Net, x: Tensor, y: Tensor, threat: ThreatModel, *, keys: Tensor, reach: int = 2, per_eps: int = 2
) -> LossSurface:
    """Evaluate the loss on a square grid around each image; the network is left as it was.

    Args:
        net: images to logits, used in evaluation mode.
        x: images ``(N, C, H, W)`` in [0, 1].
        y: true classes, int64 ``(N,)``.
        threat: norm and eps of the two directions.
        keys: of the images, int64 ``(N,)``: the seeds of the random directions.
        reach: how many eps the grid extends to each side, >= 1.
        per_eps: points of the grid per eps, >= 1.

    Example:
        >>> net = lambda x: torch.stack([x.flatten(1).sum(1), 0 * x.flatten(1).sum(1)], 1)
        >>> x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
        >>> found = loss_surface(net, x, y, ThreatModel(eps=0.1), keys=torch.tensor([0]), reach=1, per_eps=1)
        >>> found.steps, bool((found.loss[0, :, 1].diff() > 0).all())
        (tensor([-1.,  0.,  1.]), True)
    """
    steps = torch.arange(-reach * per_eps, reach * per_eps + 1) / per_eps
    with preserve_state(net, eval_mode=True):
        x, y = x.detach().clone().requires_grad_(True), y.clone()
        uphill = gradient_at(x, cross_entropy(ask(net, x), y))
        x = x.detach()
        toward = threat.norm.step(x, uphill, threat.eps) - x
        aside = random_step(x, threat, keys) - x
        with torch.no_grad():
            rows = [
                torch.stack([cross_entropy(ask(net, (x + a * toward + b * aside).clamp(0, 1)), y) for b in steps], 1)
                for a in steps
            ]
    return LossSurface(steps, torch.stack(rows, 1).cpu())


def random_step(x: Tensor, threat: ThreatModel, keys: Tensor) -> Tensor:
    """Move each image by eps along a random direction: in Linf every value by eps, up or down.

    Args:
        x: images ``(N, C, H, W)``.
        threat: norm and eps.
        keys: of the images, int64 ``(N,)``.

    Returns:
        Images that may leave [0, 1].
    """
    return threat.norm.step(x, normal(keys, x.shape[1:]).to(x), threat.eps)
