"""Cuts a tensor into tiles for the Triton kernels and launches a kernel over them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kafnets.ops.tiling import has_channels_last
from kafnets.ops.triton_kernels import triton

WARPS = 4
THREADS = 32 * WARPS
# A program's start and its last reduction cost about as much as one step.
LEAST_STEPS = 4
PROGRAMS_PER_PROCESSOR = 16
# From this number of values on, offsets need 64 bits.
WIDE_FROM = 2**31 - 2**16

# x, a, v, value, slope, partial moments, weights
Tensors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor | None]


class Tiles:
    """A tensor cut into tiles, and the tiles divided into one share per program.

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
        """Run a kernel over all shares, once for each of ``parts`` of the dictionary."""
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
        """The same values in the memory order of the tiles."""
        return (t.movedim(1, -1) if self.turned else t).contiguous()


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
