"""Sums over Gaussians on a GPU: one Triton kernel forward, one fused kernel backward.

Each program walks its share of one channel (or, in channels_last memory, of up to 32 neighbouring channels) with the
polynomials' coefficients and the moments' partial sums in registers. It writes the partial sums of its share once;
:func:`torch.sum` adds them up in a fixed order, so that results do not vary from run to run.
"""

# mypy: disable-error-code="assignment"
# Triton knows only tuples that grow by assignment.

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kafnets.ops.chunks import empty_dense, has_channels_last
from kafnets.ops.grid import Grid, Plan, plan
from kafnets.ops.sweep import Found, Wanted, arithmetic_dtype

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for macOS, and CPU builds of PyTorch come without
    triton = None

WARPS = 4
THREADS = 32 * WARPS
# A program's start and its last reduction cost about as much as one step.
LEAST_STEPS = 4
PROGRAMS_PER_PROCESSOR = 16
# Partial sums that fit into a thread's 255 registers beside everything else.
MOST_SUMS = 64
LONGEST_POLYNOMIAL = 3
# From this number of values on, offsets need 64 bits.
WIDE_FROM = 2**31 - 2**16
LN2 = math.log(2)

# x, a, v, value, slope, partial moments, weights
Tensors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor | None]

_interpreted = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
_sizes = ("channels", "length", "positions", "share", "point_stride", "bandwidth_stride")


def _jit(function: Any) -> Any:
    """A Triton function, or without Triton the bare one, so that this module can always be imported."""
    return function if triton is None else triton.jit(function)


def _kernel(function: Any) -> Any:
    """A Triton kernel that is compiled once for all sizes."""
    return function if triton is None else triton.jit(do_not_specialize=_sizes)(function)


@_jit
def _channel(LANES: tl.constexpr):
    """The program's channel, a scalar; or its ``(1, LANES)`` neighbouring channels in channels_last memory."""
    channel = tl.program_id(0)
    if LANES > 0:
        channel = (channel * LANES + tl.arange(0, LANES))[None, :]
    return channel


@_jit
def _places(
    start, channel, channels, length, positions,
    LANES: tl.constexpr, ACROSS: tl.constexpr, VECTOR: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Offsets of a tile's values, ``(ACROSS, VECTOR)`` or ``(VECTOR ACROSS, LANES)``, and which of them exist."""
    if LANES == 0:
        group = start + tl.arange(0, ACROSS)[:, None]
        sample = group // length
        row = sample.to(tl.int64) if WIDE else sample
        places = ((row * channels + channel) * length + (group - sample * length)) * VECTOR
        places += tl.arange(0, VECTOR)[None, :]
        exist = group < positions
    else:
        position = start + tl.arange(0, VECTOR * ACROSS)[:, None]
        row = position.to(tl.int64) if WIDE else position
        places = row * channels + channel
        exist = (position < positions) & (channel < channels)
    return places, exist


@_jit
def _read(x, a, v, places, exist, dtype: tl.constexpr, HAS_A: tl.constexpr, HAS_V: tl.constexpr):
    """The values of x, the scale of value (a) and that of slope and moments (a v), which is 0 where nothing exists."""
    values = tl.load(x + places, mask=exist, other=0).to(dtype)
    scale = tl.where(exist, 1, 0).to(dtype)
    if HAS_A:
        scale = tl.load(a + places, mask=exist, other=0).to(dtype)
    both = scale
    if HAS_V:
        both = scale * tl.load(v + places, mask=exist, other=0).to(dtype)
    return values, scale, both


@_jit
def _write(out, places, exist, values):
    tl.store(out + places, values.to(out.dtype.element_ty), mask=exist)


@_jit
def _weight(
    weights, power: tl.constexpr, point: tl.constexpr, channel, channels, SIZE: tl.constexpr, dtype: tl.constexpr
):
    """``W[power, c, point]`` at the program's channels, 0 for points beyond the dictionary."""
    places = weights + (power * channels + channel) * SIZE + point
    return tl.load(places, mask=channel < (channels if point < SIZE else 0), other=0).to(dtype)


@_jit
def _coefficients(
    weights, fixed, channel, channels,
    POWERS: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """The polynomials' coefficients in q for each side and power of u; ``t_i = (u - o_i) / scale``."""
    g, unit = tl.load(fixed + 2), 1 / tl.load(fixed)
    found = ()
    for side in tl.static_range(2):
        for p in tl.static_range(POWERS):
            for j in tl.static_range(HALF):
                # the right half counts upwards from the middle, the left half downwards
                point = HALF + j if side == 0 else HALF - 1 - j
                moved = (j + 0.5 if side == 0 else -j - 0.5) * g * unit
                weight = _weight(weights, p, point, channel, channels, SIZE, dtype)
                if p == 0:
                    if POWERS > 1:
                        weight -= moved * _weight(weights, 1, point, channel, channels, SIZE, dtype)
                    if POWERS > 2:
                        weight += moved * moved * _weight(weights, 2, point, channel, channels, SIZE, dtype)
                elif p == 1:
                    if POWERS > 2:
                        weight -= 2 * moved * _weight(weights, 2, point, channel, channels, SIZE, dtype)
                    weight *= unit
                else:
                    weight *= unit * unit
                found += (weight * tl.load(fixed + 3 + j),)
    return found


@_jit
def _zeros(count: tl.constexpr, dtype: tl.constexpr, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """As many partial sums, one per thread or a few."""
    found = ()
    for _ in tl.static_range(count):
        if LANES == 0:
            found += (tl.zeros((ACROSS,), dtype),)
        else:
            found += (tl.zeros((ACROSS, LANES), dtype),)
    return found


@_jit
def _fold(values, LANES: tl.constexpr, ACROSS: tl.constexpr, VECTOR: tl.constexpr):
    """Add up the VECTOR values that one thread holds."""
    return tl.sum(tl.reshape(values, (VECTOR, ACROSS, LANES)), axis=0) if LANES > 0 else tl.sum(values, axis=1)


@_jit
def _save(sums, row, point, partial, channels, WIDTH: tl.constexpr, LANES: tl.constexpr):
    """Write a partial sum of the program's share to ``(rows, C, WIDTH)``."""
    channel = tl.program_id(0)
    if LANES > 0:
        channel = channel * LANES + tl.arange(0, LANES)
    place = partial + (row * channels + channel) * WIDTH + point
    tl.store(place, tl.sum(sums, axis=0), mask=channel < channels)


@_jit
def _horner(table, first: tl.constexpr, HALF: tl.constexpr, q):
    """``A(q) = sum_j c_j q^j`` and ``A'(q)``, from coefficients ``first .. first + HALF - 1``."""
    value = tl.zeros_like(q) + table[first + HALF - 1]
    slope = tl.zeros_like(q)
    for k in tl.static_range(1, HALF):
        slope = value if k == 1 else slope * q + value
        value = value * q + table[first + HALF - 1 - k]
    return value, slope


@_jit
def _opposite_powers(x, factor):
    """``2^(factor x)`` and ``2^-(factor x)``.

    In float32 to 0.7 ulp: the hardware's 2 ulp would be raised to the power 2 J - 1. By an even and an odd polynomial
    that both share (Chebyshev, degree 6, relative error 3e-9); powers of whole numbers are exact in hardware.
    """
    if x.dtype == tl.float32:
        # adding 1.5 * 2^23 rounds to a whole number
        whole = x * factor + 12582912.0 - 12582912.0
        rest = tl.fma(x, tl.zeros_like(x) + factor, -whole)
        square = rest * rest
        even = ((1.546973202032385e-4 * square + 9.618025602807178e-3) * square + 0.24022651213596563) * square + 1.0
        odd = (1.3400432165100828e-3 * square + 5.550327214209915e-2) * square + 0.6931472067106198
        power = (even + rest * odd) * tl.exp2(whole)
        inverse = (even - rest * odd) * tl.exp2(-whole)
    else:
        power, inverse = tl.exp2(x * factor), tl.exp2(-(x * factor))
    return power, inverse


@_jit
def _factors(x, centre, scale, held, g):
    """``u``, the Gaussian ``2^-u^2``, ``r = 2^(g u)`` and ``1/r``; all but the Gaussian at a clamped u.

    Far away the Gaussian makes every product 0, and it is what NaN reaches the results through.
    """
    u = (x - centre) * scale
    near = tl.minimum(tl.maximum(u, -held), held)
    r, inverse = _opposite_powers(near, g)
    return near, tl.exp2(-(u * u)), r, inverse


@_kernel
def _grid_sweep(
    x, a, v, value, slope, partial, weights, fixed, channels, length, positions, share,
    POWERS: tl.constexpr, MOMENTS: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    HAS_A: tl.constexpr, HAS_V: tl.constexpr, VALUE: tl.constexpr, SLOPE: tl.constexpr,
    LANES: tl.constexpr, ACROSS: tl.constexpr, VECTOR: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The recurrence of :mod:`kafnets.ops.grid`."""
    dtype: tl.constexpr = fixed.dtype.element_ty
    channel = _channel(LANES)
    coefficients = _coefficients(weights, fixed, channel, channels, POWERS, SIZE, HALF, dtype)
    scale_of_u, held, g, centre = tl.load(fixed), tl.load(fixed + 1), tl.load(fixed + 2), tl.load(fixed + 3 + HALF)
    sums = _zeros(2 * HALF * MOMENTS, dtype, LANES, ACROSS)
    first = tl.program_id(1) * share
    for start in range(first, tl.minimum(first + share, positions), STEP):
        places, exist = _places(start, channel, channels, length, positions, LANES, ACROSS, VECTOR, WIDE)
        values, scale, both = _read(x, a, v, places, exist, dtype, HAS_A, HAS_V)
        total = tl.zeros_like(values)
        rise = tl.zeros_like(values)
        fresh = ()
        u, bell, r, inverse = _factors(values, centre, scale_of_u, held, g)
        edge, q_right, q_left = bell * both, r * r, inverse * inverse
        if VALUE or SLOPE:
            for p in tl.static_range(POWERS):
                right, right_slope = _horner(coefficients, p * HALF, HALF, q_right)
                left, left_slope = _horner(coefficients, (POWERS + p) * HALF, HALF, q_left)
                right, left = r * right, inverse * left
                here = right + left
                # d/du, as a multiple of log 2
                turn = 2 * (r * q_right * right_slope - inverse * q_left * left_slope) + (right - left)
                change = g * turn - 2 * u * here
                if p == 0:
                    f, df = here, change
                elif p == 1:
                    f, df = f + here * u, df + change * u + here * 1.4426950408889634
                else:
                    f, df = f + here * u * u, df + (change * u + here * 2.8853900817779268) * u
            total = bell * f
            rise = edge * df
        if MOMENTS > 0:
            for side in tl.static_range(2):
                term = edge * (r if side == 0 else inverse)
                for j in tl.static_range(HALF):
                    part = term
                    for p in tl.static_range(MOMENTS):
                        if p > 0:
                            part = part * (u - (j + 0.5) * g if side == 0 else u + (j + 0.5) * g)
                        # in the order in which they are written below
                        fresh += (sums[len(fresh)] + _fold(part, LANES, ACROSS, VECTOR),)
                    if j + 1 < HALF:
                        term = term * (q_right if side == 0 else q_left)
        sums = fresh
        if VALUE:
            _write(value, places, exist, total * scale if HAS_A else total)
        if SLOPE:
            _write(slope, places, exist, rise * (scale_of_u * 0.6931471805599453))
    unit = 1 / scale_of_u
    for side in tl.static_range(2):
        for j in tl.static_range(HALF):
            point = HALF + j if side == 0 else HALF - 1 - j
            factor = tl.load(fixed + 3 + j)
            for p in tl.static_range(MOMENTS):
                row = tl.program_id(1) * MOMENTS + p
                part = sums[(side * HALF + j) * MOMENTS + p] * factor
                _save(part, row, point, partial, channels, 2 * HALF, LANES)
                factor *= unit


@_kernel
def _direct_sweep(
    x, a, v, value, slope, partial, weights, points, bandwidths, point_stride, bandwidth_stride,
    channels, length, positions, share,
    POWERS: tl.constexpr, MOMENTS: tl.constexpr, SIZE: tl.constexpr, POINTS: tl.constexpr, WIDTH: tl.constexpr,
    dtype: tl.constexpr,
    HAS_A: tl.constexpr, HAS_V: tl.constexpr, VALUE: tl.constexpr, SLOPE: tl.constexpr,
    LANES: tl.constexpr, ACROSS: tl.constexpr, VECTOR: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One exponential per value and dictionary point; the moments of ``POINTS`` of the ``SIZE`` points."""
    channel = _channel(LANES)
    shown = channel < channels
    gamma = tl.load(bandwidths + channel * bandwidth_stride, mask=shown, other=1).to(dtype)
    points += channel * point_stride
    low = tl.load(points, mask=shown, other=0).to(dtype)
    high = low
    for other in range(1, SIZE):
        point = tl.load(points + other, mask=shown, other=0).to(dtype)
        low, high = tl.minimum(low, point), tl.maximum(high, point)
    # from here on an exponential is 0, not even a denormal; infinity becomes as harmless, NaN stays
    reach = tl.sqrt((120 if dtype == tl.float32 else 950) / gamma)
    low, high = low - reach, high + reach
    exponent = gamma * -1.4426950408889634
    sums = _zeros(POINTS * MOMENTS, dtype, LANES, ACROSS)
    begin = tl.program_id(2) * POINTS
    first = tl.program_id(1) * share
    for start in range(first, tl.minimum(first + share, positions), STEP):
        places, exist = _places(start, channel, channels, length, positions, LANES, ACROSS, VECTOR, WIDE)
        values, scale, both = _read(x, a, v, places, exist, dtype, HAS_A, HAS_V)
        values = tl.where(values > high, high, tl.where(values < low, low, values))
        total, falling, rising = tl.zeros_like(values), tl.zeros_like(values), tl.zeros_like(values)
        fresh = ()
        for i in tl.static_range(POINTS):
            t = values - tl.load(points + tl.minimum(begin + i, SIZE - 1), mask=shown, other=0).to(dtype)
            k = tl.exp2(t * t * exponent)
            if VALUE or SLOPE:
                polynomial = tl.zeros_like(t) + _weight(weights, POWERS - 1, i, channel, channels, SIZE, dtype)
                growth = tl.zeros_like(t)
                for p in tl.static_range(1, POWERS):
                    growth = polynomial if p == 1 else growth * t + polynomial
                    polynomial = polynomial * t + _weight(weights, POWERS - 1 - p, i, channel, channels, SIZE, dtype)
                part = k * polynomial
                total += part
                rising += part * t
                falling += k * growth
            if MOMENTS > 0:
                part = k * both
                for p in tl.static_range(MOMENTS):
                    fresh += (sums[i * MOMENTS + p] + _fold(part, LANES, ACROSS, VECTOR),)
                    if p + 1 < MOMENTS:
                        part = part * t
        sums = fresh
        if VALUE:
            _write(value, places, exist, total * scale if HAS_A else total)
        if SLOPE:
            _write(slope, places, exist, (falling - 2 * gamma * rising) * both)
    for i in tl.static_range(POINTS):
        for p in tl.static_range(MOMENTS):
            row = tl.program_id(1) * MOMENTS + p
            _save(sums[i * MOMENTS + p], row, begin + i, partial, channels, WIDTH, LANES)


def available(device: torch.device | str) -> tuple[bool, str]:
    """Whether the kernels run on a device, and if not, why: found out once per device by running one.

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
    """Run the smallest sweep: drivers, processors and compilers fail in too many ways to ask each."""
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


class TritonSweep:
    """:class:`~kafnets.ops.sweep.Engine` in Triton: one kernel, whatever is wanted.

    On a :class:`Grid` that has a :func:`plan`, by its recurrence for up to three powers; otherwise by one exponential
    per value and dictionary point, for any number of powers (and in a second kernel for the moments, where these are
    more than 64 numbers a channel). Never waits for the device.

    Args:
        dictionary: ``(D,)`` or ``(C, D)``.
        bandwidth: gamma > 0, ``()`` or ``(C,)``, in 1 / (units of x)^2.
        grid: what both say if they are fixed and even; this is not checked.

    Example:
        >>> engine = TritonSweep(torch.tensor([0.0, 1.0]), torch.tensor(1.0))
        >>> engine.can(torch.bfloat16, 1, 1)
        True
    """

    def __init__(self, dictionary: Tensor, bandwidth: Tensor, grid: Grid | None = None) -> None:
        self.dictionary, self.bandwidth, self.grid = dictionary, bandwidth, grid

    @staticmethod
    def can(dtype: torch.dtype, weight_powers: int, moment_powers: int) -> bool:
        """Everything."""
        return True

    def sweep(
        self, x: Tensor, a: Tensor | None, v: Tensor | None, weights: Tensor | None, powers: int, *, want: Wanted
    ) -> Found:
        """One pass; see :meth:`kafnets.ops.sweep.Engine.sweep`."""
        dtype = arithmetic_dtype(x, self.dictionary)
        need_weights = weights is not None and any(want[:2])
        counts = weights.shape[0] if weights is not None and need_weights else 0, powers if want[2] else 0
        tiles, form = _Tiles(x), self._form(dtype, counts)
        value, slope = (empty_dense(x, x.dtype) if wanted else None for wanted in want[:2])
        new = torch.empty if x.numel() else torch.zeros
        partial = new(tiles.chunks, counts[1], x.shape[1], form.width, dtype=dtype, device=x.device)
        if x.numel():
            with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
                form.run(tiles, (x, a, v, value, slope, partial, weights if need_weights else None), counts)
        return value, slope, partial.sum(0)[..., : self.dictionary.shape[-1]] if want[2] else None

    def _form(self, dtype: torch.dtype, counts: tuple[int, int]) -> _OnGrid | _Direct:
        if self.grid is not None and max(counts) <= LONGEST_POLYNOMIAL and (cut := plan(self.grid, dtype)) is not None:
            return _OnGrid(self.grid, cut, dtype)
        return _Direct(self.dictionary, self.bandwidth, dtype, counts[1])


class _OnGrid:
    """The recurrence: one launch, whatever is wanted."""

    def __init__(self, grid: Grid, cut: Plan, dtype: torch.dtype) -> None:
        self.grid, self.cut, self.dtype, self.width = grid, cut, dtype, 2 * cut.half

    def run(self, tiles: _Tiles, tensors: Tensors, counts: tuple[int, int]) -> None:
        fixed = _fixed(self.grid, self.cut, self.dtype, tensors[0].device)
        settings = {"SIZE": self.grid.size, "HALF": self.cut.half}
        tiles.launch(_grid_sweep, tensors, (fixed,), counts, settings)


class _Direct:
    """Direct exponentials: one launch, or two where the moments of all points at once do not fit into registers."""

    def __init__(self, dictionary: Tensor, bandwidth: Tensor, dtype: torch.dtype, moments: int) -> None:
        self.dictionary, self.bandwidth = dictionary.contiguous(), bandwidth.contiguous()
        self.dtype, self.size = getattr(tl, str(dtype).removeprefix("torch.")), dictionary.shape[-1]
        self.part = self.size if moments * self.size <= MOST_SUMS else max(1, MOST_SUMS // moments)
        self.parts = -(-self.size // self.part)
        self.width = self.part * self.parts

    def run(self, tiles: _Tiles, tensors: Tensors, counts: tuple[int, int]) -> None:
        if self.parts == 1:
            self._launch(tiles, tensors, counts, self.size, 1)
            return
        x, a, v, value, slope, partial, _ = tensors
        if value is not None or slope is not None:
            self._launch(tiles, tensors, (counts[0], 0), self.size, 1)
        self._launch(tiles, (x, a, v, None, None, partial, None), (0, counts[1]), self.part, self.parts)

    def _launch(self, tiles: _Tiles, tensors: Tensors, counts: tuple[int, int], part: int, parts: int) -> None:
        strides = self.size * (self.dictionary.dim() - 1), self.bandwidth.dim()
        settings = {"SIZE": self.size, "POINTS": part, "WIDTH": self.width, "dtype": self.dtype}
        tiles.launch(_direct_sweep, tensors, (self.dictionary, self.bandwidth, *strides), counts, settings, parts)


@lru_cache(maxsize=64)
def _fixed(grid: Grid, cut: Plan, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a grid's kernel multiplies with: the scale of u, its clamp, g, ``2^-((j + 1/2) g)^2``, the centre.

    ``u = scale (x - centre)`` makes the Gaussian ``2^-u^2``; neighbouring points are g apart in u. Both are rounded
    first, so that all factors speak of the same points.
    """
    s = grid.bandwidth * grid.step**2
    scale, g = torch.tensor([math.sqrt(grid.bandwidth / LN2), math.sqrt(s / LN2)], dtype=dtype).tolist()
    falls = [2 ** -(((j + 0.5) * g) ** 2) for j in range(cut.half)]
    centre = grid.first + grid.step * (cut.half - 0.5)
    return torch.tensor([scale, cut.clamp * g, g, *falls, centre], dtype=dtype, device=device)


class _Tiles:
    """How a tensor is cut into tiles, and these into one share per program.

    ``(N, C, L)`` in rows: a tile is 128 groups of 4 neighbouring values of one channel (of 1 where 4 does not divide
    L). In channels_last memory, or without positions: up to 32 channels at 16 positions or more.
    """

    def __init__(self, x: Tensor) -> None:
        samples, channels = x.shape[:2]
        length = math.prod(x.shape[2:])
        self.shape, self.lanes, self.channels = x.shape, 0, channels
        self.turned = has_channels_last(x)
        if self.turned or length == 1:
            self.lanes = min(32, triton.next_power_of_2(channels))
            self.across, self.vector, self.length, self.positions = THREADS // self.lanes, 4, 1, samples * length
            self.step = self.across * self.vector
        else:
            self.across, self.vector = THREADS, 1 if length % 4 else 4
            self.length, self.step = length // self.vector, self.across
            self.positions = samples * self.length
        self.columns = -(-channels // max(1, self.lanes))
        steps = -(-self.positions // self.step)
        wanted = -(-PROGRAMS_PER_PROCESSOR * _processors(x.device) // max(1, self.columns))
        chunks = max(1, min(wanted, steps // LEAST_STEPS))
        self.share = -(-steps // chunks) * self.step
        self.chunks = max(1, -(-self.positions // max(1, self.share)))
        self.wide = x.numel() >= WIDE_FROM

    def launch(
        self,
        kernel: Any,
        tensors: Tensors,
        small: tuple[Tensor | int, ...],
        counts: tuple[int, int],
        settings: dict[str, Any],
        parts: int = 1,
    ) -> None:
        """Run a kernel over all shares: once, or for each of ``parts`` of the dictionary."""
        x, a, v, value, slope, partial, weights = tensors
        large = [None if t is None else self._dense(t) for t in (x, a, v, value, slope)]
        small_weights = None if weights is None else weights.contiguous()
        pointers = [large[0] if t is None else t for t in (*large, partial, small_weights)]
        kernel[(self.columns, self.chunks, parts)](
            *pointers,
            *small,
            *(self.channels, self.length, self.positions, self.share),
            POWERS=counts[0],
            MOMENTS=counts[1],
            HAS_A=a is not None,
            HAS_V=v is not None,
            VALUE=value is not None,
            SLOPE=slope is not None,
            LANES=self.lanes,
            ACROSS=self.across,
            VECTOR=self.vector,
            STEP=self.step,
            WIDE=self.wide,
            num_warps=WARPS,
            enable_fp_fusion=True,
            **settings,
        )

    def _dense(self, t: Tensor) -> Tensor:
        """The same values, in the order in which the tiles walk."""
        return (t.movedim(1, -1) if self.turned else t).contiguous()


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
