"""Interval bounds of a network's logits within an Linf ball."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kafnets.activations import KWTA, Activation
from kafnets.certify.boxes import Box, added, passed
from kafnets.certify.extremes import Extremes, extremes_of
from kafnets.certify.steps import Addition, Step, check_steps, steps_of
from kafnets.threat.units import in_input_units

FLOAT32 = 1e-5  # of the largest logit: the error of a network in float32, several times what was measured


class IntervalBounds:
    """Bounds of the logits of a network on all images within eps of given ones, in Linf and in [0, 1].

    Each layer passes an interval per value (Gowal et al. 2018, arXiv 1810.12715, section 3): affine layers exactly,
    activations by their range on the interval (:func:`~kafnets.certify.extremes.extremes_of`).

    Sound for the network in evaluation mode as a function of real numbers with the stored weights, except that the even
    dictionary of a KAF is taken as exactly even, as the engines do: bounds are computed in float64, and every layer's
    are widened by more than its rounding errors. The same network in float32 differs by
    its own rounding errors; :meth:`certified` therefore asks for a margin above 1e-5 of the largest logit.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`. It is copied: later changes are not seen.

    Raises:
        ValueError: if there is no sound bound for a part of it.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        >>> low, high = IntervalBounds(net)(torch.full((1, 1, 1, 2), 0.5), eps=0.25)
        >>> low.round(decimals=6).tolist(), high.round(decimals=6).tolist()
        ([[0.5, -0.5]], [[1.5, 0.5]])
    """

    def __init__(self, net: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            steps_of(net)  # names the part of this network that has no bound
            self.net = copy.deepcopy(getattr(net, "_orig_mod", net)).double().eval()
            self.steps = steps_of(self.net)
            self.extremes = extremes_in(self.steps, next(self.net.parameters(), torch.zeros(())).double(), certain=True)

    @torch.no_grad()
    def __call__(self, x: Tensor, eps: float | str) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the logits, each float64 ``(N, classes)``.

        Args:
            x: images ``(N, C, H, W)`` in [0, 1].
            eps: radius in input units, >= 0; a number or a fraction such as ``"8/255"``.

        Raises:
            ValueError: if ``eps`` is not a number >= 0, or an image leaves [0, 1].
        """
        check_steps(self.net, self.steps, x[:1].double())
        box = pass_through(self.steps, self.extremes, box_around(x.double(), eps), widen=True)
        return box.low, box.high

    @torch.no_grad()
    def margins(self, x: Tensor, y: Tensor, eps: float | str) -> Tensor:
        """Lower bounds of ``logit_y - logit_j``, float64 ``(N, classes)``; infinite at ``j = y``.

        A dense last layer is merged with the difference, which is tighter than two bounds of logits.
        """
        gap = -worst_logits(self.steps, self.extremes, box_around(x.double(), eps), y, widen=True)[0]
        return gap.scatter(1, y[:, None], torch.inf)

    def certified(self, x: Tensor, y: Tensor, eps: float | str) -> Tensor:
        """Whether no image within ``eps`` is misclassified, bool ``(N,)``."""
        low, high = self(x, eps)
        size = torch.maximum(low.abs(), high.abs()).amax(1)
        return self.margins(x, y, eps).amin(1) > FLOAT32 * size


def interval_bounds(net: Any, x: Tensor, eps: float | str) -> tuple[Tensor, Tensor]:
    """:class:`IntervalBounds` of a network for one batch; build that class once for several.

    Example:
        >>> low, high = interval_bounds(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2), eps=0.1)
        >>> low.shape, bool((low < high).all())
        (torch.Size([2, 3]), True)
    """
    return IntervalBounds(net)(x, eps)


def box_around(x: Tensor, eps: float | str) -> Box:
    """The images within ``eps`` of ``x`` in Linf and in [0, 1]."""
    eps = in_input_units("eps", eps)
    if not 0 <= eps < torch.inf:
        raise ValueError(f"eps must be a number >= 0 in input units, got {eps!r}")
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {x.min():g} to {x.max():g}")
    return Box((x - eps).clamp_min(0), (x + eps).clamp_max(1))


def extremes_in(steps: list[Step], like: Tensor, *, certain: bool) -> dict[nn.Module, Extremes]:
    """The extremes of every activation that needs them."""
    found = (s.module for s in steps if isinstance(s.module, Activation) and type(s.module) is not KWTA)
    return {module: extremes_of(module, like, certain=certain) for module in found}


def pass_through(steps: list[Step], extremes: dict[nn.Module, Extremes], box: Box, *, widen: bool) -> Box:
    """The box of the last step's values."""
    boxes = [box]
    for step in steps:
        reads = [boxes[i].widened() if widen else boxes[i] for i in step.inputs]
        samples = [one.sample for one in reads if one.sample is not None]
        if isinstance(step.module, Addition):
            low, high = added(*reads)
        else:
            low, high = passed(step.module, reads[0], extremes.get(step.module))
        boxes.append(Box(low, high, step.module(*samples) if samples else None))
    return boxes[-1].widened() if widen else boxes[-1]


def worst_logits(
    steps: list[Step], extremes: dict[nn.Module, Extremes], box: Box, y: Tensor, *, widen: bool
) -> tuple[Tensor, Tensor | None]:
    """Upper bounds of ``logit_j - logit_y``, ``(N, classes)``, 0 at ``j = y``; and the logits of the sample."""
    last = steps[-1]
    merged = type(last.module) is nn.Linear and last.inputs == (len(steps) - 1,)
    box = pass_through(steps[:-1] if merged else steps, extremes, box, widen=widen)
    if not merged:
        worst = box.high - box.low.gather(1, y[:, None])
        return worst.scatter(1, y[:, None], 0.0), box.sample
    assert isinstance(last.module, nn.Linear)
    weight, bias = last.module.weight, last.module.bias
    differences = weight - weight[y][:, None]  # (N, classes, features)
    worst = torch.einsum("nkf,nf->nk", differences, box.centre)
    worst = worst + torch.einsum("nkf,nf->nk", differences.abs(), box.radius)
    if bias is not None:
        worst = worst + bias - bias[y][:, None]
    if widen:
        worst = worst + 1e-11 * (1 + worst.abs())
    sample = None if box.sample is None else last.module(box.sample)
    return worst.scatter(1, y[:, None], 0.0), sample
