"""Free adversarial training: one backward pass gives the gradients of weights and images."""

import torch
from torch import Tensor

from kafnets.attacks.base import Net, at_least_one
from kafnets.attacks.queries import ask
from kafnets.objectives.base import Batch, Objective, Terms


class Free(Objective):
    """Every batch is trained on ``replays`` times; the gradient of each step also moves the perturbation.

    ``delta <- project(delta + eps sign(grad_x loss))``. The perturbation is kept for the next replay and the next
    batch, as in Shafahi et al. 2019 (arXiv 1904.12843, algorithm 1). So that it never leaves [0, 1], it is also
    clipped to the images that it is added to, as in Wong et al.'s code. An epoch of m replays costs as much as m epochs
    of standard training, so it is usual to divide the number of epochs by m.

    The perturbation starts at zero in every epoch, and is part of a checkpoint. With several processes, each has a
    perturbation of its own, and a checkpoint contains that of the first: a run of several is resumed after an epoch.

    Args:
        replays: steps on every batch, >= 2; the authors use 8 on CIFAR-10 and 4 on ImageNet.

    Raises:
        ValueError: if ``replays`` is out of its range, or a checkpoint contains no perturbation of finite numbers.

    Example:
        >>> print(Free().label, Free(replays=4).label)
        Free-8 Free-4
    """

    headline = ("replays",)

    def __init__(self, *, replays: int = 8) -> None:
        super().__init__()
        if at_least_one("replays", replays) < 2:
            raise ValueError("replays must be >= 2, got 1: the perturbation would stay at zero in the first step")
        self.replays = replays
        # not a buffer: its shape is that of the batch, and several processes must not share it
        self._delta = torch.empty(0)
        self._epoch = -1

    def craft(self, net: Net, batch: Batch) -> Tensor:
        """Return the images plus the perturbation, as a leaf whose gradient the training step computes."""
        if int(batch.epoch) != self._epoch:
            self._epoch, self._delta = int(batch.epoch), torch.empty(0)
        x, ball = batch.x.detach(), batch.threat
        kept = self._delta.to(x)
        if kept.shape[1:] != x.shape[1:]:
            kept = x.new_zeros(0, *x.shape[1:])
        fresh = x.new_zeros(max(len(x) - len(kept), 0), *x.shape[1:])
        self._delta = torch.cat([kept, fresh])
        return ball.norm.project(x + self._delta[: len(x)], x, ball.eps).requires_grad_(True)

    def loss(self, net: Net, batch: Batch, inputs: Tensor) -> Terms:
        """Return the mean loss on ``inputs``."""
        logits = ask(net, inputs)
        return Terms(batch.loss(logits, batch.y).mean(), logits, inputs, {})

    def after_backward(self, batch: Batch, terms: Terms) -> None:
        """Move the perturbation by eps along the gradient of the training step."""
        x, ball = batch.x.detach(), batch.threat
        inputs, grad = terms.inputs.detach(), terms.inputs.grad
        assert grad is not None, "the images of Free are a leaf of the training step's graph"
        moved = ball.norm.project(ball.norm.step(inputs, grad, ball.eps), x, ball.eps)
        self._delta[: len(x)] = moved - x

    def get_extra_state(self) -> dict[str, Tensor | int]:
        """Return the perturbation and the epoch it belongs to, for a checkpoint."""
        return {"delta": self._delta.cpu(), "epoch": self._epoch}

    def set_extra_state(self, state: dict[str, Tensor | int]) -> None:
        """Take over the perturbation of a checkpoint."""
        delta, epoch = (state.get(name) if isinstance(state, dict) else None for name in ("delta", "epoch"))
        if not (isinstance(delta, Tensor) and isinstance(epoch, int) and bool(torch.isfinite(delta).all())):
            raise ValueError("the checkpoint's perturbation of free adversarial training is not finite numbers")
        self._delta, self._epoch = delta.clone(), epoch
