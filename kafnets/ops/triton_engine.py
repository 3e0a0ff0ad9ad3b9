"""Sums over Gaussians on a GPU: one Triton kernel forward, one fused kernel backward.

Every program of a kernel writes partial sums; :func:`torch.sum` adds them in a fixed order, so that results do not vary
from run to run.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from functools import lru_cache

import torch
from torch import Tensor

from kafnets.ops.engine import Engine, Found, Wanted, arithmetic_dtype
from kafnets.ops.tiling import empty_dense
from kafnets.ops.triton_kernels import exponential_sweep, recurrence_sweep, triton
from kafnets.ops.triton_launch import Tensors, Tiles
from kafnets.ops.uniform_recurrence import Grid, RecurrencePlan, plan_recurrence

if triton is not None:
    import triton.language as tl

# Partial sums that fit into a thread's 255 registers beside everything else.
MOST_SUMS = 64
LONGEST_POLYNOMIAL = 3
LN2 = math.log(2)

_interpreted = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"


def available(device: torch.device | str) -> tuple[bool, str]:
    """Whether the kernels run on a device, and if not, why. Runs a kernel once per device.

    Args:
        device: where the tensors will be. CPU tensors need Triton's interpreter (``TRITON_INTERPRET=1`` in the
            environment before this module is imported): slow, for tests.

    Returns:
        ``(True, "")``, or ``(False, reason)``.

    Example:
        >>> available("meta")
        (False, 'Triton needs a CUDA device, got meta')
    """
    device = torch.device(device)
    if device.type != "cuda" and not (_interpreted and device.type == "cpu"):
        return False, f"Triton needs a CUDA device, got {device}"
    return (False, "Triton is not installed") if triton is None else _probe(device)


@lru_cache
def _probe(device: torch.device) -> tuple[bool, str]:
    """Run the smallest sweep: drivers, processors and compilers fail in too many ways to check each."""
    try:
        x, points = torch.zeros(1, 1, device=device), torch.tensor([0.0, 1.0], device=device)
        engine = TritonSweep(points, points[1], Grid(0.0, 1.0, 2, 1.0))
        value, _, moments = engine.sweep(x, None, None, torch.ones(1, 1, 2, device=device), 1, want=(True, False, True))
        assert value is not None and moments is not None
        found, expected = (float(value), *moments.flatten().tolist()), (1 + math.exp(-1), 1.0, math.exp(-1))
    except Exception as error:
        return False, f"Triton does not run on {device}: {str(error).strip() or type(error).__name__}"
    if any(abs(f - e) > 1e-5 for f, e in zip(found, expected, strict=True)):
        return False, f"Triton computes {found} instead of {expected} on {device}"
    return True, ""


class TritonSweep(Engine):
    """Triton kernels.

    For a :class:`Grid` that has a :func:`plan_recurrence` and up to three powers it takes the recurrence, otherwise one
    exponential per value and dictionary point (with a second launch for moments of more than 64 numbers per channel).
    It never waits for the device.

    Example:
        >>> engine = TritonSweep(torch.tensor([0.0, 1.0]), torch.tensor(1.0))
        >>> engine.can(torch.bfloat16, 1, 1)
        True
    """

    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """One pass; see :meth:`kafnets.ops.engine.Engine.sweep`."""
        dtype = arithmetic_dtype(x, self.dictionary)
        need_weights = weights is not None and any(want[:2])
        counts = weights.shape[0] if weights is not None and need_weights else 0, powers if want[2] else 0
        tiles, form = Tiles(x), self._form(dtype, counts)
        value, slope = (empty_dense(x, x.dtype) if wanted else None for wanted in want[:2])
        new = torch.empty if x.numel() else torch.zeros
        partial = new(tiles.chunks, counts[1], x.shape[1], form.width, dtype=dtype, device=x.device)
        if x.numel():
            with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
                form.run(tiles, (x, a, v, value, slope, partial, weights if need_weights else None), counts)
        return value, slope, partial.sum(0)[..., : self.dictionary.shape[-1]] if want[2] else None

    def _form(self, dtype: torch.dtype, counts: tuple[int, int]) -> _RecurrenceLaunch | _ExponentialLaunch:
        if self.grid is not None and max(counts) <= LONGEST_POLYNOMIAL and (plan := plan_recurrence(self.grid, dtype)):
            return _RecurrenceLaunch(self.grid, plan, dtype)
        return _ExponentialLaunch(self.dictionary, self.bandwidth, dtype, counts[1])


class _RecurrenceLaunch:
    """The recurrence: always one launch."""

    def __init__(self, grid: Grid, plan: RecurrencePlan, dtype: torch.dtype) -> None:
        self.grid, self.plan, self.dtype, self.width = grid, plan, dtype, 2 * plan.half

    def run(self, tiles: Tiles, tensors: Tensors, counts: tuple[int, int]) -> None:
        fixed = _fixed(self.grid, self.plan, self.dtype, tensors[0].device)
        settings = {"SIZE": self.grid.size, "HALF": self.plan.half}
        tiles.launch(recurrence_sweep, tensors, (fixed,), counts, settings)


class _ExponentialLaunch:
    """Exponentials: one launch, or two where the moments of all points do not fit into registers together."""

    def __init__(self, dictionary: Tensor, bandwidth: Tensor, dtype: torch.dtype, moments: int) -> None:
        self.dictionary, self.bandwidth = dictionary.contiguous(), bandwidth.contiguous()
        self.dtype, self.size = getattr(tl, str(dtype).removeprefix("torch.")), dictionary.shape[-1]
        self.part = self.size if moments * self.size <= MOST_SUMS else max(1, MOST_SUMS // moments)
        self.parts = -(-self.size // self.part)
        self.width = self.part * self.parts

    def run(self, tiles: Tiles, tensors: Tensors, counts: tuple[int, int]) -> None:
        if self.parts == 1:
            self._launch(tiles, tensors, counts, self.size, 1)
            return
        x, a, v, value, slope, partial, _ = tensors
        if value is not None or slope is not None:
            self._launch(tiles, tensors, (counts[0], 0), self.size, 1)
        self._launch(tiles, (x, a, v, None, None, partial, None), (0, counts[1]), self.part, self.parts)

    def _launch(self, tiles: Tiles, tensors: Tensors, counts: tuple[int, int], part: int, parts: int) -> None:
        strides = self.size * (self.dictionary.dim() - 1), self.bandwidth.dim()
        settings = {"SIZE": self.size, "POINTS": part, "WIDTH": self.width, "dtype": self.dtype}
        tiles.launch(exponential_sweep, tensors, (self.dictionary, self.bandwidth, *strides), counts, settings, parts)


@lru_cache(maxsize=64)
def _fixed(grid: Grid, plan: RecurrencePlan, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The constants of a grid's kernel: the scale of u, its clamp, g, ``2^-((j + 1/2) g)^2`` for every j, the centre.

    ``u = scale (x - centre)`` makes the Gaussian ``2^-u^2``; neighbouring points are g apart in u. Both are rounded
    first, so that all factors belong to the same points.
    """
    s = grid.bandwidth * grid.step**2
    factors = [math.sqrt(grid.bandwidth / LN2), math.sqrt(s / LN2)]
    scale, g = torch.tensor(factors, dtype=dtype, device="cpu").tolist()
    falls = [2 ** -(((j + 0.5) * g) ** 2) for j in range(plan.half)]
    centre = grid.first + grid.step * (plan.half - 0.5)
    return torch.tensor([scale, plan.clamp * g, g, *falls, centre], dtype=dtype, device=device)
