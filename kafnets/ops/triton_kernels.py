"""Triton kernels for sums over Gaussians: the recurrence on a grid, and one exponential per value and dictionary point.

Each program covers its share of one channel (or, in channels_last memory, of up to 32 neighbouring channels) and holds
the polynomials' coefficients and the moments' partial sums in registers. It writes the partial sums of its share once.
"""

# mypy: disable-error-code="assignment"
# Triton knows only tuples that grow by assignment.

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # there are no wheels for macOS, and CPU builds of PyTorch do not install it
    triton = None

SIZES = ("channels", "length", "positions", "share", "point_stride", "bandwidth_stride")


def _jit(function: Any) -> Any:
    """A Triton function; without Triton the bare one, so that this module can always be imported."""
    return function if triton is None else triton.jit(function)


def _kernel(function: Any) -> Any:
    """A Triton kernel that is compiled once for all sizes."""
    return function if triton is None else triton.jit(do_not_specialize=SIZES)(function)


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
    """Offsets of a tile's values, ``(ACROSS, VECTOR)`` or ``(VECTOR ACROSS, LANES)``, and whether they exist."""
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
    """The values of x, the scale a of value and the scale a v of slope and moments, which are 0 outside the tensor."""
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
    """``count`` partial sums of 0, each with one number or a few per thread."""
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

    In float32 to 0.7 ulp: the hardware's 2 ulp would be raised to the power 2 J - 1. Both share an even and an odd
    polynomial (Chebyshev, degree 6, relative error 3e-9); the hardware's powers of whole numbers are exact.
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

    Far away the Gaussian makes every product 0, and through it NaN reaches the results.
    """
    u = (x - centre) * scale
    near = tl.minimum(tl.maximum(u, -held), held)
    r, inverse = _opposite_powers(near, g)
    return near, tl.exp2(-(u * u)), r, inverse


@_kernel
def recurrence_sweep(
    x, a, v, value, slope, partial, weights, fixed, channels, length, positions, share,
    POWERS: tl.constexpr, MOMENTS: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    HAS_A: tl.constexpr, HAS_V: tl.constexpr, VALUE: tl.constexpr, SLOPE: tl.constexpr,
    LANES: tl.constexpr, ACROSS: tl.constexpr, VECTOR: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The recurrence of :mod:`kafnets.ops.uniform_recurrence`."""
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
def exponential_sweep(
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
    # beyond this distance every exponential is exactly 0: infinity is clamped to it, NaN stays
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
