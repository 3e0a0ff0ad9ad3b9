"""Bounds to train with: they have gradients, and are those of the network as it trains."""

import torch
from torch import Tensor

from kafnets.certify.boxes import Box
from kafnets.certify.intervals import box_around, extremes_in, worst_logits
from kafnets.certify.lipschitz import LipschitzRules, pair_bounds
from kafnets.certify.steps import steps_of


def interval_logits(net: object, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The logits of the images, and upper bounds of ``logit_j - logit_y`` within ``eps`` in Linf.

    The network is in the mode of the training step. The images pass it once: batch norm takes its statistics from them
    and bounds use the same, as Shi, Wang, Zhang, Yi, Hsieh 2021 (arXiv 2103.17268) do. Dropout acts on the images, not
    on bounds. Ranges of activations are found on a coarse grid and nothing is widened, so these bounds may be too small
    by rounding and by what lies between the points of the grid.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.
        x: ``(N, C, H, W)`` in [0, 1].
        y: int64 ``(N,)``, true classes.
        eps: in input units, >= 0.

    Returns:
        Both ``(N, classes)``; the bounds are 0 at the true class.
    """
    with torch.autocast(x.device.type, enabled=False):
        steps = steps_of(net)
        around = box_around(x, eps)
        box = Box(around.low, around.high, x)
        worst, logits = worst_logits(steps, extremes_in(steps, x.detach(), certain=False), box, y, widen=False)
        assert logits is not None
        return logits, worst


def lipschitz_pairs(net: object, shape: tuple[int, int, int]) -> Tensor:
    """Bounds of the Lipschitz constants of differences of two logits, ``(classes, classes)``, L2.

    Of the running statistics of batch norm, which have no gradient; slopes of activations are the largest on a coarse
    grid, and so may be too small by what lies between its points.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.
        shape: of one image, ``(C, H, W)``.
    """
    rules = LipschitzRules(net, shape, certain=False)
    before = total = torch.ones(())
    for _, _, upper in rules.bounds():
        before, total = total, upper
    return pair_bounds(rules, before, total)
