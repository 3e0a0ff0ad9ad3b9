"""k-winners-take-all with exact thresholds, differentiable, along the fastest path of a device.

A path works on rows, ``(N, M)`` with a sample's values next to each other in memory (their order does not matter), and
chooses what to save for backward:

    :class:`Native`    C++ on a CPU, the engine native: radix selection; saves one bit per value
    :class:`Compiled`  torch.compile on CUDA, the engine triton: bisection of the thresholds' bits; saves the input
    :class:`Eager`     torch.topk on any device, the engine eager; saves one byte per value

The engine reference is :func:`kafnets.functional.kwta`.
"""

from ctypes import c_int, c_int64, c_void_p
from functools import cache
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from kafnets import functional
from kafnets.functional import check_ratio, nan_to_inf, winner_count
from kafnets.ops.dispatch import engine_for, is_looked_into, must_be_plain
from kafnets.ops.native import KWTA_SOURCE, load

Saved = tuple[Tensor, ...]


class SelectionPath(Protocol):
    """One way to compute k-WTA on rows, without gradients."""

    def thresholds(self, rows: Tensor, count: int) -> Tensor:
        """The ``count``-th largest value of each row, ``(N,)``; NaN counts as infinite."""

    def select(self, rows: Tensor, count: int) -> tuple[Tensor, Saved]:
        """The rows with 0 in place of values below their threshold, and what :meth:`masked` needs."""

    def masked(self, rows: Tensor, *saved: Tensor) -> Tensor:
        """Other rows with 0 at the same places."""


class Eager:
    """:class:`SelectionPath` by an unsorted topk, which is faster than kthvalue and than a sorted one."""

    def thresholds(self, rows: Tensor, count: int) -> Tensor:
        """The smallest of the winners."""
        return nan_to_inf(rows.topk(count, dim=1, sorted=False).values).amin(1)

    def select(self, rows: Tensor, count: int) -> tuple[Tensor, Saved]:
        """Saves the mask of the dropped values."""
        dropped = rows < self.thresholds(rows, count).unsqueeze(1)
        return torch.where(dropped, 0, rows), (dropped,)

    def masked(self, rows: Tensor, *saved: Tensor) -> Tensor:
        """Drop the same values."""
        (dropped,) = saved
        return torch.where(dropped, 0, rows)


class Compiled:
    """:class:`SelectionPath` by bisection: one pass over a row in the cache counts the values that reach a candidate.

    The candidates are compared as numbers and halved as integers in the order of the numbers, so 32 steps end at the
    exact threshold of any float32 row. Half precision is widened to float32. float64 takes topk: 64 steps at half the
    speed would be slower.
    """

    def thresholds(self, rows: Tensor, count: int) -> Tensor:
        """Bisect between the infinities."""
        if rows.dtype == torch.float64 or rows.shape[1] > _LARGEST_COUNT:
            return Eager().thresholds(rows, count)
        return _bisected(rows.float(), count).to(rows.dtype)

    def select(self, rows: Tensor, count: int) -> tuple[Tensor, Saved]:
        """Saves the rows and their thresholds: with a mask of bytes, a pass takes 9 to 40 ms instead of 2."""
        thresholds = self.thresholds(rows, count).unsqueeze(1)
        return _dropped(rows, rows, thresholds), (rows, thresholds)

    def masked(self, rows: Tensor, *saved: Tensor) -> Tensor:
        """Compare again."""
        return _dropped(rows, *saved)


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_LARGEST_COUNT = 2**31 - 1
_INFINITE_KEY = 0x7F800000
_STEPS = 8  # of 32 in one graph: with 16 it takes 1.5 times as long to compile and is no faster
_CPU_VALUES = 1 << 20  # in one call: 4 MiB stay in a cache; calls of 64 MiB take twice as long
_CPU_HALVINGS = 1  # in one pass; with 2 (three candidates at once) the 16 passes take 1.4 times as long as these 32
_GPU_HALVINGS = 4  # one pass costs more than the arithmetic of 15 candidates


def _number(key: Tensor) -> Tensor:
    """The float32 for an int32 key; keys are in the order of the numbers."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _narrower(rows: Tensor, low: Tensor, high: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Keys ``low`` <= threshold < ``high``, ``(N, 1)``, after ``_STEPS`` more halvings of their distance.

    One pass may do several halvings at once: it compares with all candidates that these could need.
    """
    halvings = _CPU_HALVINGS if rows.device.type == "cpu" else _GPU_HALVINGS
    for _ in range(_STEPS // halvings):
        keys = [low, high]
        for _ in range(halvings):
            # the mean without overflow: the common bits and half of the different ones
            between = [(a & b) + ((a ^ b) >> 1) for a, b in pairwise(keys)]
            keys = [key for pair in zip(keys, between, strict=False) for key in pair] + [high]
        for key in keys[1:-1]:
            # not smaller, rather than larger or equal: NaN counts as infinite
            enough = (~(rows < _number(key))).sum(1, keepdim=True, dtype=torch.int32) >= wanted
            low = torch.where(enough, torch.maximum(low, key), low)
            high = torch.where(enough, high, torch.minimum(high, key))
    return low, high


def _keep_reaching(values: Tensor, rows: Tensor, thresholds: Tensor) -> Tensor:
    """``values``, of any dtype, with 0 where ``rows`` are smaller than their threshold."""
    return torch.where(rows < thresholds, 0, values)


@cache
def _compiled(function: Any) -> Any:
    """``function`` for all sizes, compiled when it is first used."""
    return torch.compile(function, dynamic=True)


# Custom operators: inside one, training, no_grad and a compiled network look the same; a compiled function would be
# compiled again for each of them. Only inference mode still has graphs of its own.
@torch.library.custom_op("kafnets::kwta_bisected", mutates_args=())
def _bisected(rows: Tensor, count: int) -> Tensor:
    """The thresholds ``(N,)`` of float32 rows."""
    together = max(1, _CPU_VALUES // rows.shape[1]) if rows.device.type == "cpu" else len(rows)
    return torch.cat([_bisected_together(some.detach(), count) for some in rows.split(together)])


def _bisected_together(rows: Tensor, count: int) -> Tensor:
    """The thresholds of rows that together stay in the cache."""
    low = rows.new_full((len(rows), 1), -_INFINITE_KEY - 1, dtype=torch.int32)
    high = torch.full_like(low, _INFINITE_KEY + 1)
    wanted = torch.full_like(low, count)
    for _ in range(32 // _STEPS):
        low, high = _compiled(_narrower)(rows, low, high, wanted)
    return _number(low).squeeze(1)


@torch.library.custom_op("kafnets::kwta_dropped", mutates_args=())
def _dropped(values: Tensor, rows: Tensor, thresholds: Tensor) -> Tensor:
    """:func:`_keep_reaching`, compiled."""
    # bits are moved as integers: through float32, where half precision would go, NaN loses its payload
    bits = values.view(_BITS[values.element_size()])
    return _compiled(_keep_reaching)(bits.detach(), rows, thresholds).view(values.dtype)


class Native:
    """:class:`SelectionPath` in C++ (native/kwta.cpp), for contiguous rows on a CPU."""

    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

    def thresholds(self, rows: Tensor, count: int) -> Tensor:
        """Radix selection."""
        found = rows.new_empty(len(rows))
        self._call("thresholds", rows, (rows, found), count)
        return found

    def select(self, rows: Tensor, count: int) -> tuple[Tensor, Saved]:
        """Saves one bit per value, 32 in one integer."""
        values = torch.empty_like(rows)
        kept = rows.new_empty(len(rows), -(-rows.shape[1] // 32), dtype=torch.int32)
        self._call("select", rows, (rows, values, kept), count)
        return values, (kept,)

    def masked(self, rows: Tensor, *saved: Tensor) -> Tensor:
        """Copy the values whose bit is set."""
        (kept,) = saved
        values = torch.empty_like(rows)
        self._call("masked", rows, (rows, kept, values))
        return values

    def _call(self, name: str, rows: Tensor, tensors: Saved, *count: int) -> None:
        function = getattr(load(KWTA_SOURCE), f"kwta_{name}_{str(rows.dtype).removeprefix('torch.')}")
        sizes = map(c_int64, (*rows.shape, *count))
        function(*(c_void_p(t.data_ptr()) for t in tensors), *sizes, c_int(torch.get_num_threads()))


_PATHS: dict[str, SelectionPath] = {
    "native": Native(),
    "triton": Compiled(),
    "eager": Eager(),
    "reference": Eager(),  # only within the operator of a compiled network
}


def path_for(x: Tensor) -> SelectionPath:
    """The path that belongs to the engine of the tensor's device; :class:`Eager` for rare dtypes."""
    path = _PATHS[engine_for(x.device)]
    return path if x.dtype in Native.dtypes else Eager()


class _SampleRows:
    """The samples of ``(N, ...)`` as rows in the order of their memory, and back."""

    def __init__(self, x: Tensor) -> None:
        order = [0, *sorted(range(1, x.dim()), key=x.stride, reverse=True)]
        self.order, self.inverse = order, sorted(range(x.dim()), key=order.__getitem__)
        self.shape = [x.shape[i] for i in order]

    def of(self, x: Tensor) -> Tensor:
        """``(N, M)`` contiguous, without a copy if ``x`` has the memory format of the tensor given to ``__init__``."""
        # detached, because it is then no view: compiled functions are compiled again for views of other shapes
        return x.permute(self.order).contiguous().flatten(1).detach()

    def restored(self, rows: Tensor) -> Tensor:
        """In the shape and memory format of the tensor given to ``__init__``."""
        return rows.view(self.shape).permute(self.inverse)


class _Selected(torch.autograd.Function):
    """k-WTA of ``x`` along a path."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, path: SelectionPath) -> Tensor:
        """Compute and keep what the path saves."""
        ctx.path, ctx.rows = path, _SampleRows(x)
        values, saved = path.select(ctx.rows.of(x), count)
        ctx.save_for_backward(*saved)
        return ctx.rows.restored(values)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same values of the cotangent."""
        return _masked(cotangent, ctx.rows, ctx.path, *ctx.saved_tensors), None, None


class _Masked(torch.autograd.Function):
    """Other values with 0 at the same places; linear, so its derivative is the same function."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, rows: _SampleRows, path: SelectionPath, *saved: Tensor) -> Tensor:
        """Drop the same values."""
        ctx.path, ctx.rows = path, rows
        ctx.save_for_backward(*saved)
        return rows.restored(path.masked(rows.of(v), *saved))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Drop the same values of the cotangent."""
        saved = ctx.saved_tensors
        return _masked(cotangent, ctx.rows, ctx.path, *saved), None, None, *[None] * len(saved)


def _masked(v: Tensor, rows: _SampleRows, path: SelectionPath, *saved: Tensor) -> Tensor:
    if not is_looked_into():
        return _Masked.apply(v, rows, path, *saved)
    # the mask itself, because a path cannot mask what PyTorch transforms
    ones = torch.ones(rows.shape, dtype=v.dtype, device=v.device).flatten(1)
    return torch.where(rows.restored(path.masked(ones, *saved)) == 0, 0, v)


@torch.library.custom_op("kafnets::kwta_thresholds", mutates_args=())
def _thresholds(x: Tensor, ratio: Tensor) -> Tensor:
    """The thresholds ``(N,)`` as one operator of a compiled network: torch.compile alone produces nothing as fast."""
    fraction = check_ratio(ratio.item())
    if x.numel() == 0:
        return x.new_zeros(len(x))
    rows = _SampleRows(x).of(x)
    return path_for(x).thresholds(rows, winner_count(fraction, rows.shape[1]))


@_thresholds.register_fake
def _(x: Tensor, ratio: Tensor) -> Tensor:
    return x.new_empty(x.shape[0])


def _traced(x: Tensor, ratio: float) -> Tensor:
    """k-WTA in the graph of a compiled network, which can fuse the selection with its neighbours."""
    # a computed tensor: a plain number would be part of the graph, compiled again for each ratio of a schedule
    number = torch.ones((), dtype=torch.float64, device="cpu") * ratio
    thresholds = torch.ops.kafnets.kwta_thresholds(x.detach(), number)
    return torch.where(x < thresholds.view(-1, *[1] * (x.dim() - 1)), 0, x)


def kwta(x: Tensor, ratio: float) -> Tensor:
    """Per sample, keep the ``k = ceil(ratio * M)`` largest of its M values (ties with the k-th too), zero the rest.

    Xiao, Zhong, Zheng, "Enhancing adversarial defense by k-winners-take-all", ICLR 2020 (arXiv 1905.10510), eq. 3; the
    values of :func:`kafnets.functional.kwta`, bit for bit. The derivative is 1 at what is kept and 0 elsewhere (the
    threshold's own derivative is zero almost everywhere). NaN counts as infinite and is kept.

    Args:
        x: ``(N, ...)``, floating point, any memory layout.
        ratio: the fraction kept, in (0, 1].

    Returns:
        The shape, dtype and memory format of ``x``.

    Raises:
        ValueError: if ``ratio`` is outside (0, 1].

    Example:
        >>> kwta(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), 0.5)
        tensor([[3., 0., 2., 0.]])
    """
    if must_be_plain():
        return functional.kwta(x, ratio)
    if torch.compiler.is_compiling():
        return _traced(x, ratio)
    return kwta_along(path_for(x), x, ratio)


def kwta_along(path: SelectionPath, x: Tensor, ratio: float) -> Tensor:
    """:func:`kwta` along a given path, whatever the device's engine is: for tests and benchmarks."""
    check_ratio(ratio)
    if x.numel() == 0:
        return x
    return _Selected.apply(x, winner_count(ratio, x.numel() // len(x)), path)
