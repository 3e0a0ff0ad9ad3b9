"""Cuts a tensor of any memory layout into pieces that stay in a processor's cache."""

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

CPU_CHUNK = 1 << 17
GPU_CHUNK = 1 << 21

Piece = tuple[slice, slice, slice]


def has_channels_last(x: Tensor) -> bool:
    """Whether the channels of ``(N, C, *spatial)`` lie next to each other in memory, and the positions do not."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def empty_dense(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An empty tensor of the shape of ``x``: channels_last where ``x`` is, contiguous otherwise."""
    if has_channels_last(x):
        return torch.empty_like(x, dtype=dtype)
    return torch.empty(x.shape, dtype=dtype, device=x.device)


class ChannelRows:
    """``(N, C, *spatial)`` seen as ``(C, N, L)``: every row of a piece belongs to one channel and is long.

    Args:
        x: the tensor; read and written through a view where its memory allows one.
        channels_last: ``(C, N L, 1)`` instead, for channels_last memory; the same for tensors that are cut together.
    """

    def __init__(self, x: Tensor, *, channels_last: bool) -> None:
        n, c = x.shape[:2]
        positions = math.prod(x.shape[2:])
        rows = x.movedim(1, -1).reshape(n * positions, c, 1) if channels_last else x.reshape(n, c, positions)
        self.data, self.device, self.num_channels = rows.transpose(0, 1), x.device, c

    def read(self, piece: Piece) -> Tensor:
        """The values of a piece."""
        return self.data[piece]

    def write(self, piece: Piece, values: Tensor) -> None:
        """Store the values of a piece, rounded to the tensor's dtype."""
        self.data[piece] = values

    def pieces(self) -> Iterator[Piece]:
        """Index triples that cover all values once, each with at most about one chunk; the first is the largest."""
        chunk = CPU_CHUNK if self.device.type == "cpu" else GPU_CHUNK
        c, a, b = self.data.shape
        step_b = max(1, min(b, chunk))
        step_c = max(1, min(c, chunk // step_b))
        step_a = max(1, min(a, chunk // (step_b * step_c)))
        sizes = ((c, step_c), (a, step_a), (b, step_b))
        return product(*([slice(i, min(i + step, size)) for i in range(0, size, step)] for size, step in sizes))


def cut(column: Tensor, piece: Piece) -> Tensor:
    """The rows of ``(C, 1, 1)`` that belong to a piece; ``(1, 1, 1)`` is for all pieces."""
    wanted = piece[0].stop - piece[0].start
    return column if column.shape[0] in (1, wanted) else column[piece[0]]


class Buffers:
    """Scratch tensors, allocated once and reused for every piece.

    Args:
        rows: the tensor that is cut into pieces.
        dtype: the dtype of the arithmetic.
        count: how many scratch tensors of one piece's size.
    """

    def __init__(self, rows: ChannelRows, dtype: torch.dtype, count: int) -> None:
        self.rows, self.dtype, self.count = rows, dtype, count
        self.memory: Tensor | None = None

    def shaped(self, piece: Piece) -> Tensor:
        """``(count, *piece)``, in memory that the first call allocates; its piece must be the largest."""
        shape = [s.stop - s.start for s in piece]
        size = self.count * math.prod(shape)
        if self.memory is None:
            self.memory = torch.empty(size, dtype=self.dtype, device=self.rows.device)
        return self.memory[:size].view(self.count, *shape)
