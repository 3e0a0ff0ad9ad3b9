"""The shortest way from an image to a hyperplane that stays within [0, 1]."""

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from kafnets.threat import L1, L2, Linf, Norm


@singledispatch
def step_to_plane(norm: Norm, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """The smallest ``d`` in a norm with ``w . d = c`` and ``x + d`` in [0, 1]; the exact solution, no iteration.

    Where no such ``d`` exists, the one that takes ``x`` to the point of the box nearest to the plane. Where ``w`` is
    zero, zero. Croce and Hein 2020 (arXiv 1907.02044), eq. 5 to 7, solve the same problem by sorting.

    Written for :class:`Linf`, :class:`L2` and :class:`L1`; ``step_to_plane.register`` adds other norms.

    Args:
        norm: decides which steps are short.
        x: images ``(N, ...)`` in [0, 1].
        w: normals of the planes, the shape of ``x``, finite.
        c: what is missing, ``(N,)``, of any sign.

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
    return _one_by_one(x, w, c)


@dataclass(frozen=True)
class _Way:
    """A problem, turned so that every pixel gains by moving: float64 ``(N, d)``, but ``missing``, ``(N, 1)``."""

    weight: Tensor
    room: Tensor
    sign: Tensor
    missing: Tensor

    @classmethod
    def of(cls, x: Tensor, w: Tensor, c: Tensor) -> "_Way":
        # in float64, and relative to the largest: thousands of terms of very different sizes are added and subtracted
        x, w, c = x.flatten(1).double(), w.flatten(1).double(), c.double()
        largest = w.abs().amax(1, keepdim=True)
        scale = torch.where(largest > 0, largest, 1)
        towards = w / scale * c.sign().unsqueeze(1)
        missing = (c.abs() / scale.squeeze(1)).unsqueeze(1)
        return cls(towards.abs(), torch.where(towards > 0, 1 - x, x), towards.sign(), missing)


def _one_by_one(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """Each pixel as far as it can or need be, those of the largest weight first."""
    way = _Way.of(x, w, c)
    order = way.weight.argsort(dim=1, descending=True, stable=True)
    weight, room = way.weight.gather(1, order), way.room.gather(1, order)
    gain = weight * room
    missing = way.missing - (gain.cumsum(1) - gain)
    # what rounding has left over is nothing to move a pixel of small weight for
    missing = torch.where(missing > 1e-13 * way.missing, missing, 0)
    step = torch.minimum(missing / weight.clamp_min(1e-300), room).where(weight > 0, 0)
    step = torch.zeros_like(step).scatter(1, order, step)
    return (way.sign * step).to(x.dtype).reshape(x.shape)


def _evenly(x: Tensor, w: Tensor, c: Tensor, *, power: int) -> Tensor:
    """``d_i = sign(w_i) min(s |w_i|^power, room_i)``, with the one s that reaches the plane.

    The gain ``sum_i |w_i| |d_i|`` is concave and piecewise linear in s, and bends where a pixel meets the box.
    """
    way = _Way.of(x, w, c)
    weight, room, missing = way.weight, way.room, way.missing
    speed = weight**power
    # pixels without weight never move; they come first, at s = 0, and change no sum
    bend, order = torch.where(weight > 0, room / speed.clamp_min(1e-300), 0).sort(1)
    gained = (weight * room).gather(1, order).cumsum(1)
    rates = (weight * speed).gather(1, order)
    rate = rates.sum(1, keepdim=True) - rates.cumsum(1)  # of the pixels still moving after each bend
    first = (gained + bend * rate.clamp_min(0) < missing).sum(1, keepdim=True)  # of the bends beyond the plane
    reached = first < room.shape[1]
    here = first.clamp_max(room.shape[1] - 1)
    before = torch.where(first > 0, gained.gather(1, (here - 1).clamp_min(0)), 0)
    moving = rate.gather(1, here) + rates.gather(1, here)
    s = torch.minimum((missing - before) / moving.clamp_min(1e-300), bend.gather(1, here))
    step = torch.where(reached, torch.minimum(s * speed, room), room)
    return (way.sign * step).to(x.dtype).reshape(x.shape)
