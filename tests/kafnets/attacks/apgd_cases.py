"""Networks for the tests of APGD, and a class that is always predicted, so that no image is misclassified."""

import torch
from torch import nn

from kafnets.attacks import APGD


class AlikeLinear(nn.Linear):
    """Rounds the same in every batch, unlike matrix products, so that long ascents do not diverge."""

    def forward(self, x):
        return (x.unsqueeze(1) * self.weight).sum(2) + self.bias


class Waves(nn.Module):
    def forward(self, x):
        return (6 * x).sin()


def wavy_net():
    """A smooth network whose loss rises and falls during an ascent, so that steps are halved for both reasons."""
    torch.manual_seed(0)
    first, second = AlikeLinear(8, 16), AlikeLinear(16, 5)
    return nn.Sequential(first, Waves(), second).double()


def linear(classes=2, size=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, classes, generator=generator) / size**0.5
    return weight, lambda x: (x - 0.5) @ weight


def pad_with_a_winner(logits):
    return torch.cat([logits, torch.full((len(logits), 1), 1e6, dtype=logits.dtype)], 1)


def ignoring_the_winner(loss):
    return lambda logits, winner, y: loss(logits[:, :-1], y)


def watched_ascent(net, x, y, keys, *, climb, before_move, **settings):
    """The points of largest loss of an ascent in which every image counts as correct.

    ``before_move`` is called with the :class:`climb` before each step.
    """

    class Watched(climb):
        def move(self):
            before_move(self)
            super().move()

    attack = APGD(**settings)
    attack._climb = Watched
    labels = (torch.full_like(y, net(x).shape[1]), y)
    loss = ignoring_the_winner(attack.loss)
    return attack.climb(lambda x: pad_with_a_winner(net(x)), loss, x, labels, keys, early_stop=False)
