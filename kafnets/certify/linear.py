"""Bounds of a network's logits by linear relaxation: every layer lies between two straight lines."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kafnets.activations import Activation
from kafnets.backbones.base import PixelMean
from kafnets.certify.boxes import ROUNDING, Box, added, passed
from kafnets.certify.intervals import FLOAT32, IntervalBounds, box_around
from kafnets.certify.lines import Lines, Relaxation
from kafnets.certify.steps import Addition, check_steps

NUMBERS = 1 << 24  # of the coefficients that are held at once, 128 MB


class LinearBounds(IntervalBounds):
    """Bounds of the logits of a network on all images within eps of given ones, in Linf and in [0, 1].

    CROWN (Zhang, Weng, Chen, Hsieh, Daniel 2018, arXiv 1811.00866): a bound ``a . z + b`` of what is asked, z the
    values of a layer, becomes one in the values of the layer before it. Through an affine layer a is multiplied by its
    matrix; through an activation, which lies between two lines on the interval of its input
    (:class:`~kafnets.certify.lines.Relaxation`), by the slope of the lower or the upper one, by the sign of a. At the
    image, and at the box of every layer on the way, the smallest value of ``a . x + b`` is known, and the best counts:
    no bound is looser than that of :class:`IntervalBounds`. The box of each activation's input is found in the same
    way. Residual additions are exact. Max-pooling takes the input that is certain to be largest, or else, from above, a
    constant.

    Far tighter than intervals for a network that was not trained for them, and far more expensive: one pass back per
    value in front of an activation, so for small networks. Sound as :class:`IntervalBounds` is.

    Args:
        net: see :func:`~kafnets.certify.steps.steps_of`.

    Raises:
        ValueError: if there is no sound bound for a part of it.

    Example:
        >>> from kafnets.activations import ReLU
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 32), ReLU(32), nn.Linear(32, 32), ReLU(32), nn.Linear(32, 3))
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> (low, high), (wider_low, wider_high) = LinearBounds(net)(x, eps=0.1), IntervalBounds(net)(x, eps=0.1)
        >>> bool((high - low < 0.5 * (wider_high - wider_low)).all())
        True
    """

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.net.requires_grad_(False)
        activations = [step.module for step in self.steps if isinstance(step.module, Activation)]
        with torch.no_grad():
            self.relaxations = {module: Relaxation(module, self.extremes.get(module)) for module in activations}

    @torch.no_grad()
    def __call__(self, x: Tensor, eps: float | str) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of the logits, each float64 ``(N, classes)``; see :class:`IntervalBounds`."""
        with torch.inference_mode(False):
            logits = self._search(x, eps).tightened(len(self.steps))
            return logits.low, logits.high

    @torch.no_grad()
    def margins(self, x: Tensor, y: Tensor, eps: float | str) -> Tensor:
        """Lower bounds of ``logit_y - logit_j``, float64 ``(N, classes)``; infinite at ``j = y``."""
        with torch.inference_mode(False):
            return _margins(self._search(x, eps), y)

    @torch.no_grad()
    def certified(self, x: Tensor, y: Tensor, eps: float | str) -> Tensor:
        """Whether no image within ``eps`` is misclassified, bool ``(N,)``."""
        with torch.inference_mode(False):
            search = self._search(x, eps)
            size = _largest(search.tightened(len(self.steps))).amax(1)
            return _margins(search, y).amin(1) > FLOAT32 * size

    def _search(self, x: Tensor, eps: float | str) -> "_Search":
        x = x.detach().clone().double()
        check_steps(self.net, self.steps, x[:1])
        return _Search(self, box_around(x, eps))


class _Search:
    """The boxes of every value and the lines of every activation, for one batch of images.

    Attributes:
        boxes: of the images, and of what each step gives.
        lines: by the number of the activation's step.
    """

    def __init__(self, owner: LinearBounds, images: Box) -> None:
        self.steps, self.boxes = owner.steps, [images]
        self.lines: dict[int, Lines] = {}
        for number, step in enumerate(self.steps):
            module, read = step.module, step.inputs[0]
            if isinstance(module, (Activation, nn.MaxPool2d)):
                self.boxes[read] = self.tightened(read)
            if isinstance(module, Activation):
                self.lines[number] = owner.relaxations[module](self.boxes[read])
            reads = [self.boxes[i].widened() for i in step.inputs]
            if isinstance(module, Addition):
                _check_addition(step.name, *reads)
                low, high = added(*reads)
            else:
                low, high = passed(module, reads[0], owner.extremes.get(module))
            self.boxes.append(Box(low, high).widened())

    def tightened(self, value: int) -> Box:
        """The box of a value, made smaller by following each of its numbers back to the image."""
        box = self.boxes[value]
        if self._exact(value):
            return box
        images, shape = len(box.low), box.low.shape[1:]
        low, high = box.low.flatten(1).clone(), box.high.flatten(1).clone()
        most = max(each.low[0].numel() for each in self.boxes[: value + 1])
        for rows in torch.arange(shape.numel(), device=low.device).split(max(1, NUMBERS // (images * most))):
            unit = torch.zeros(len(rows), shape.numel(), dtype=low.dtype, device=low.device)
            unit = unit.scatter_(1, rows[:, None], 1.0).view(1, len(rows), *shape)
            low[:, rows] = torch.maximum(low[:, rows], self.lower(value, unit))
            high[:, rows] = torch.minimum(high[:, rows], -self.lower(value, -unit))
        return Box(low.view_as(box.low), high.view_as(box.high))

    def _exact(self, value: int) -> bool:
        """Whether the interval is exact: affine steps alone lead to a value, one of which at most mixes its inputs."""
        modules = [step.module for step in self.steps[:value]]
        if any(isinstance(module, (Activation, Addition, nn.MaxPool2d)) for module in modules):
            return False
        return sum(isinstance(module, (nn.Conv2d, nn.Linear, nn.AvgPool2d, PixelMean)) for module in modules) <= 1

    def lower(self, value: int, rows: Tensor) -> Tensor:
        """Lower bounds of ``sum_i rows_i value_i`` in the box, ``(N, R)``, for rows ``(N, R, ...)`` or ``(1, R, ...)``.

        On the way back to the image, the box of every value that all paths pass gives a bound too; the best counts.
        """
        waiting = {value: rows}
        total = torch.zeros(rows.shape[:2], dtype=rows.dtype, device=rows.device)
        best = torch.full_like(total, -torch.inf)
        for number in range(value - 1, -1, -1):
            if number + 1 not in waiting:
                continue
            back, constant = self._through(number, waiting.pop(number + 1))
            total = total + constant
            for read in self.steps[number].inputs:
                waiting[read] = waiting[read] + back if read in waiting else back
            if len(waiting) == 1:
                ((read, a),) = waiting.items()
                best = torch.maximum(best, total + _least(a, self.boxes[read]))
        return best

    def _through(self, number: int, a: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of a step's input, and a constant, from those of its output."""
        module, read = self.steps[number].module, self.steps[number].inputs[0]
        before, after = self.boxes[read], self.boxes[number + 1]
        if isinstance(module, Addition):
            return a, -ROUNDING * _dot(a.abs(), _largest(after))
        if number in self.lines:
            return _through_lines(self.lines[number], a, _largest(before), _largest(after))
        if isinstance(module, nn.MaxPool2d):
            return _through_maximum(module, before, a)
        back, offset = _transposed(module, a, before.low.shape[1:])
        # the largest sum of the sizes of all products, which bounds the rounding errors
        low, high = passed(module, Box(-_largest(before), _largest(before)), None)
        return back, _dot(a, offset) - ROUNDING * _dot(a.abs(), torch.maximum(low.abs(), high.abs()))


def _check_addition(name: str, first: Box, second: Box) -> None:
    shapes = [tuple(box.low.shape[1:]) for box in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"no linear relaxation is known for a sum that repeats one of its terms, as {name} does, which adds values "
            f"of the shapes {shapes[0]} and {shapes[1]}"
        )


def _margins(search: _Search, y: Tensor) -> Tensor:
    identity = torch.eye(search.boxes[-1].low.shape[1], dtype=torch.float64, device=y.device)
    found = search.lower(len(search.boxes) - 1, identity[y][:, None] - identity)
    return found.scatter(1, y[:, None], torch.inf)


def _through_lines(lines: Lines, a: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """From below by the lower line where a coefficient is positive, and by the upper one where it is negative."""
    up, down = a.clamp_min(0), a.clamp_max(0)
    back = up * lines.low_slope[:, None] + down * lines.high_slope[:, None]
    size = before * torch.maximum(lines.low_slope.abs(), lines.high_slope.abs()) + after
    size = size + torch.maximum(lines.low_offset.abs(), lines.high_offset.abs())
    return back, _dot(up, lines.low_offset) + _dot(down, lines.high_offset) - ROUNDING * _dot(a.abs(), size)


def _transposed(module: nn.Module, a: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """``W^T a`` for every row, and b, of an affine layer ``W x + b``."""
    flat = a.flatten(0, 1)
    with torch.enable_grad():
        x = torch.zeros(len(flat), *shape, dtype=a.dtype, device=a.device, requires_grad=True)
        out = module.forward(x)
        (back,) = torch.autograd.grad(out, x, flat)
    return back.unflatten(0, a.shape[:2]), out[:1].detach()


def _through_maximum(pool: nn.MaxPool2d, box: Box, a: Tensor) -> tuple[Tensor, Tensor]:
    """From below, a maximum is at least the input with the largest lower end.

    From above it is that input where no other can be larger, and else at most the largest upper end. In windows that
    overlap, which input wins is never taken for certain.
    """
    size, stride = (each if isinstance(each, tuple) else (each, each) for each in (pool.kernel_size, pool.stride))
    _, index = F.max_pool2d(box.low, size, stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True)
    index = index.flatten(2)
    rivals = box.high.flatten(2).scatter(2, index, -torch.inf).view_as(box.high)
    certain = box.low.flatten(2).gather(2, index) >= pool.forward(rivals).flatten(2)
    apart = size == stride and pool.dilation in (1, (1, 1))
    certain = (certain if apart else torch.zeros_like(certain))[:, None]
    up, down = a.flatten(3).clamp_min(0), a.flatten(3).clamp_max(0)
    kept = torch.where(certain, up + down, up)
    back = torch.zeros(*kept.shape[:3], box.low[0, 0].numel(), dtype=a.dtype, device=a.device)
    back = back.scatter_add_(3, index[:, None].expand_as(kept), kept)
    top = pool.forward(box.high).flatten(2)[:, None]
    constant = torch.where(certain, 0.0, down * top).flatten(2).sum(2)
    return back.unflatten(3, box.low.shape[2:]), constant - ROUNDING * _dot(a.abs(), pool.forward(_largest(box)))


def _least(a: Tensor, box: Box) -> Tensor:
    """The smallest values of ``sum_i a_i x_i`` for x in a box, ``(N, R)``."""
    return _dot(a, box.centre) - _dot(a.abs(), box.radius + ROUNDING * _largest(box))


def _largest(box: Box) -> Tensor:
    return torch.maximum(box.low.abs(), box.high.abs())


def _dot(a: Tensor, values: Tensor) -> Tensor:
    """``sum_i a[n, r, i] values[n, i]``, ``(N, R)``; either may have one row for all images."""
    a, values = a.flatten(2), values.flatten(1)
    if len(a) == 1:  # as it is until the first activation on the way back
        return values @ a[0].T
    return torch.einsum("nri,ni->nr", a, values.expand(len(a), -1))


def linear_bounds(net: Any, x: Tensor, eps: float | str) -> tuple[Tensor, Tensor]:
    """:class:`LinearBounds` of a network for one batch; build that class once for several.

    Example:
        >>> low, high = linear_bounds(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2), eps=0.1)
        >>> low.shape, bool((low < high).all())
        (torch.Size([2, 3]), True)
    """
    return LinearBounds(net)(x, eps)
