"""Sums over Gaussians by ``torch.compile``: the recurrence of :mod:`kafnets.ops.grid` with hand-written derivatives.

There is one graph for all sizes. Sweeps of two powers and more, in float64 or off a grid go to the eager engine.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kafnets.ops.chunks import empty_dense, has_channels_last
from kafnets.ops.eager import EagerSweep
from kafnets.ops.grid import Recurrence, plan
from kafnets.ops.sweep import Found, Wanted

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "cpp.enable_floating_point_contract_flag": "fast"
}  # a tenth faster on a CPU; a GPU fuses anyway
# 2^f on [-1/2, 1/2] to 1.9e-9, and cosh and sinh of f ln(2) to 4e-11 and 1e-8; minimax, highest power first
POWERS = (1.5345811765e-4, 1.3399931422e-3, 9.6184889598e-3, 5.5503287765e-2, 2.4022646891e-1, 6.9314720574e-1, 1.0)
EVEN = (1.54694909e-4, 9.61802651e-3, 2.40226512e-1, 1.0)
ODD = (1.33908e-3, 5.550357e-2, 6.9314719e-1)


class CompiledSweep(EagerSweep):
    """:class:`~kafnets.ops.sweep.Engine` for any device that ``torch.compile`` has a compiler for."""

    @staticmethod
    def can(dtype: torch.dtype, weight_powers: int, moment_powers: int) -> bool:
        """The forward and backward passes of training and of attacks."""
        return dtype != torch.float64 and weight_powers <= 1 and moment_powers <= 1

    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """One compiled pass; see :meth:`kafnets.ops.sweep.Engine.sweep`."""
        cut = None if self.grid is None else plan(self.grid, torch.float32)
        if self.grid is None or cut is None or not x.numel() or self.dictionary.dtype == torch.float64:
            return super().sweep(x, a, v, weights, powers, want=want)
        form = Recurrence(self.grid, cut, torch.float32)
        if weights is None:
            weights = x.new_zeros(1, x.shape[1], self.grid.size, dtype=torch.float32)
        rows = _Rows(x)
        table = form.polynomials(weights.detach())[0].squeeze(-1).repeat(1, 1, rows.repeats, 1)
        numbers = [form.s, form.centre, 1 / self.grid.step, cut.clamp, -2 * self.grid.bandwidth * self.grid.step]
        # copies, because views carry the sizes of what they look into, and those would be compiled in
        fixed = tuple(n.clone() for n in torch.tensor(numbers).to(x.device, non_blocking=True))
        value = slope = moments = None
        if want[0]:
            value = rows.restored(_compiled(_value)(rows.of(x), table, fixed))
            value = value if a is None else value * a
        if want[1] or want[2]:
            scale = a if v is None else v if a is None else a * v
            scale = torch.ones_like(x) if scale is None else scale
            slopes, sums = _compiled(_slope_and_moments)(rows.of(x), rows.of(scale), table, fixed)
            slope = rows.restored(slopes) if want[1] else None
            sums = torch.stack(sums).view(-1, rows.repeats, x.shape[1]).sum(1).view(*table.shape[:2], -1)
            moments = form.in_order(sums) if want[2] else None
        return value, slope, moments


class _Rows:
    """``(N, C, *spatial)`` as rows of one channel each: ``(N C, L)``, or where channels come last ``(C, N L)``."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.turned = x, has_channels_last(x) or x.dim() == 2
        self.repeats = 1 if self.turned else len(x)

    def of(self, t: Tensor) -> Tensor:
        rows = t.movedim(1, 0).flatten(1) if self.turned else t.flatten(0, 1).flatten(1)
        return rows.contiguous().detach()  # torch.compile would make one graph more for what requires gradients

    def restored(self, rows: Tensor) -> Tensor:
        if self.turned:
            x = self.x
            return empty_dense(x, x.dtype).copy_(rows.view(x.shape[1], len(x), *x.shape[2:]).movedim(0, 1))
        return rows.view(self.x.shape)


@cache
def _compiled(function: Callable) -> Callable:
    """``function`` for all sizes, compiled when it is first used."""
    return torch.compile(function, dynamic=True, fullgraph=True, options=OPTIONS)


def _value(x: Tensor, table: Tensor, fixed: tuple[Tensor, ...]) -> Tensor:
    """``S(x, W)`` on rows."""
    _, bell, (r, inverse) = _start(x, fixed)
    right, left = (coefficients.unbind() for coefficients in table.unbind())
    total = _polynomial(right, r * r, turned=True) * r + _polynomial(left, inverse * inverse, turned=True) * inverse
    return (total * bell).to(x.dtype)


def _slope_and_moments(x: Tensor, g: Tensor, table: Tensor, fixed: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    """``g dS/dx`` on rows, and the sums of ``g t_j`` along each row, for each side and point.

    With a_j the weighted terms and b_j their running sum, ``sum_j (j + 1/2) a_j = (J + 1/2) b_(J-1) - sum_j b_j``.
    """
    u, bell, powers = _start(x, fixed)
    rise, sums = torch.zeros_like(u), []
    for sign, r, coefficients in zip((1, -1), powers, table.unbind(), strict=True):
        term, q = bell * g * r, r * r
        part = parts = torch.zeros_like(u)
        for coefficient in coefficients.unbind():
            sums.append(term.sum(-1))
            part = part + coefficient * term
            parts = parts + part
            term = term * q
        rise = rise + ((u - sign * (table.shape[1] + 0.5)) * part + sign * parts)
    return (fixed[4] * rise).to(x.dtype), sums


def _start(x: Tensor, fixed: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """``u`` (clamped), ``exp(-s u^2)`` (not clamped) and ``exp(+-s u)``."""
    s, centre, inverse_step, clamp = fixed[:4]
    u = (x.float() - centre) * inverse_step
    log2 = s * (1 / math.log(2))
    y = -log2 * (u * u)
    n = torch.round(torch.maximum(y, torch.full_like(y, -127.0)))
    bell = torch.where(y < -126, 0, _polynomial(POWERS, y - n) * _power_of_two(n))
    u = torch.maximum(torch.minimum(u, clamp), -clamp)
    n = torch.round(log2 * u)
    f = log2 * u - n
    even, odd = _polynomial(EVEN, f * f), _polynomial(ODD, f * f) * f
    return u, bell, ((even + odd) * _power_of_two(n), (even - odd) * _power_of_two(-n))


def _polynomial(coefficients: tuple, x: Tensor, *, turned: bool = False) -> Tensor:
    """Horner's rule; the highest power comes first, or with ``turned`` last."""
    first, *rest = reversed(coefficients) if turned else coefficients
    total = first
    for coefficient in rest:
        total = total * x + coefficient
    return total


def _power_of_two(n: Tensor) -> Tensor:
    """``2^n`` for integers in [-127, 127] (0 at -127), put together from its bits."""
    return ((n.to(torch.int32) + 127) << 23).view(torch.float32)
