"""The shortest step from an image to a hyperplane that stays within [0, 1]."""

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from kafnets.threat import L1, L2, Linf, Norm


@singledispatch
def step_to_plane(norm: Norm, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """The smallest ``d`` in a norm with ``w . d = c`` and ``x + d`` in [0, 1]; the exact solution, no iteration.

    Where no such ``d`` exists, the step to the point of [0, 1] nearest to the plane. Where ``w`` is zero, zero. Croce
    and Hein 2020 (arXiv 1907.02044), eq. 5 to 7, solve the same problem by sorting.

    Written for :class:`Linf`, :class:`L2` and :class:`L1`; ``step_to_plane.register`` adds other norms.

    Args:
        norm: of the length of a step.
        x: images ``(N, ...)`` in [0, 1].
        w: normals of the planes, the shape of ``x``, finite.
        c: right-hand sides of the planes, ``(N,)``, of any sign.

    Returns:
        ``d``, of the shape and dtype of ``x``.

    Example:
        >>> x, w = torch.tensor([[0.9, 0.5]]), torch.tensor([[2.0, 1.0]])
        >>> step_to_plane(Linf(), x, w, torch.tensor([0.6]))  # the first pixel ends at 1
        tensor([[0.1000, 0.4000]])
    """
    raise TypeError(
        f"no way to a plane is known in {norm!r}; pass Linf(), L2() or L1(), or register step_to_plane for it"
    )


@step_to_plane.register
def _(norm: Linf, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return _evenly(x, w, c, power=0)


@step_to_plane.register
def _(norm: L2, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return _evenly(x, w, c, power=1)


@step_to_plane.register
def _(norm: L1, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return _largest_first(x, w, c)


@dataclass(frozen=True)
class _Problem:
    """Find sizes in [0, room] with ``weight . sizes = missing``: float64 ``(N, d)``, ``missing`` ``(N, 1)``."""

    weight: Tensor
    room: Tensor
    sign: Tensor
    missing: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor, c: Tensor) -> "_Problem":
        # in float64, and relative to the largest weight: thousands of terms of very different sizes are added
        x, w, c = x.flatten(1).double(), w.flatten(1).double(), c.double()
        largest = w.abs().amax(1, keepdim=True)
        scale = torch.where(largest > 0, largest, 1)
        towards = w / scale * c.sign().unsqueeze(1)
        missing = (c.abs() / scale.squeeze(1)).unsqueeze(1)
        return cls(towards.abs(), torch.where(towards > 0, 1 - x, x), towards.sign(), missing)


def _largest_first(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Move each pixel as far as possible or necessary, in descending order of weights."""
    problem = _Problem.of(x, w, c)
    order = problem.weight.argsort(dim=1, descending=True, stable=True)
    weight, room = problem.weight.gather(1, order), problem.room.gather(1, order)
    gain = weight * room
    missing = problem.missing - (gain.cumsum(1) - gain)
    # a rest that is due to rounding must not move a pixel of small weight
    missing = torch.where(missing > 1e-13 * problem.missing, missing, 0)
    step = torch.minimum(missing / weight.clamp_min(1e-300), room).where(weight > 0, 0)
    step = torch.zeros_like(step).scatter(1, order, step)
    return (problem.sign * step).to(x.dtype).reshape(x.shape)


def _evenly(x: Tensor, w: Tensor, c: Tensor, *, power: int) -> Tensor:
    """``d_i = sign(w_i) min(s |w_i|^power, room_i)``, with the one s that reaches the plane.

    The gain ``sum_i |w_i| |d_i|`` is concave and piecewise linear in s, with a breakpoint where a pixel reaches 0 or 1.
    """
    problem = _Problem.of(x, w, c)
    weight, room, missing = problem.weight, problem.room, problem.missing
    speed = weight**power
    # pixels without weight never move; they come first, at s = 0, and change no sum
    at, order = torch.where(weight > 0, room / speed.clamp_min(1e-300), 0).sort(1)
    gained = (weight * room).gather(1, order).cumsum(1)
    rates = (weight * speed).gather(1, order)
    rate = rates.sum(1, keepdim=True) - rates.cumsum(1)  # of the pixels still moving after each breakpoint
    first = (gained + at * rate.clamp_min(0) < missing).sum(1, keepdim=True)  # the breakpoint beyond the plane
    reached = first < room.shape[1]
    here = first.clamp_max(room.shape[1] - 1)
    before = torch.where(first > 0, gained.gather(1, (here - 1).clamp_min(0)), 0)
    moving = rate.gather(1, here) + rates.gather(1, here)
    s = torch.minimum((missing - before) / moving.clamp_min(1e-300), at.gather(1, here))
    step = torch.where(reached, torch.minimum(s * speed, room), room)
    return (problem.sign * step).to(x.dtype).reshape(x.shape)
