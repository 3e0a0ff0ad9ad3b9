"""Functions of small tiles applied to whole tensors, with derivatives that are such functions again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from kafnets.ops import reference
from kafnets.ops.dispatch import is_looked_into
from kafnets.ops.engine import arithmetic_dtype
from kafnets.ops.tiling import ChannelRows, empty_dense, has_channels_last

# values of one tile, dictionary axis included: they stay in a processor's cache, and fill a GPU
CPU_TILE = 1 << 17
GPU_TILE = 1 << 24

Tile = tuple[slice, slice, slice]


@dataclass(frozen=True)
class _Gradients:
    """The vector-Jacobian product of ``function``, from its inputs and cotangents to gradients of ``wanted`` inputs."""

    function: Callable[..., tuple[Tensor, ...]]
    num_inputs: int
    wanted: tuple[int, ...]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if is_looked_into():
            given, cotangents = tensors[: self.num_inputs], tensors[self.num_inputs :]
            return reference.gradients(self.function, given, cotangents, self.wanted)
        inner = torch.is_grad_enabled()  # inside a product of higher order, which differentiates this one
        inputs = [t if inner and t.requires_grad else t.detach().requires_grad_() for t in tensors[: self.num_inputs]]
        wanted = [inputs[i] for i in self.wanted]
        with torch.enable_grad():
            outputs, cotangents = self.function(*inputs), tensors[self.num_inputs :]
            return torch.autograd.grad(outputs, wanted, cotangents, create_graph=inner, materialize_grads=True)


@dataclass(frozen=True)
class Fold:
    """Applies a function of tiles to whole tensors.

    Wide tensors have the shape of x and are cut into tiles; small ones have one row per channel, or one for
    all. Wide outputs are put together again, small ones are summed over the tiles. The derivative is a fold too.

    Attributes:
        function: from tiles of all inputs to a tuple of tiles or rows.
        wide: for every input, whether it is wide. The first one is.
        like: for every output, the input whose shape and dtype it has.
    """

    function: Callable[..., tuple[Tensor, ...]]
    wide: tuple[bool, ...]
    like: tuple[int, ...]

    def derivative(self, wanted: tuple[int, ...]) -> "Fold":
        """The fold from all inputs and the outputs' cotangents to the gradients of the wanted inputs."""
        cotangents = tuple(self.wide[i] for i in self.like)
        return Fold(_Gradients(self.function, len(self.wide), wanted), self.wide + cotangents, wanted)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs, without gradients."""
        x, dtype, order = tensors[0], arithmetic_dtype(*tensors), has_channels_last(tensors[0])
        inputs = [
            ChannelRows(t, channels_last=order) if w else t.to(dtype) for t, w in zip(tensors, self.wide, strict=True)
        ]
        found = [
            empty_dense(x, tensors[i].dtype) if self.wide[i] else torch.zeros_like(tensors[i], dtype=dtype)
            for i in self.like
        ]
        targets = [
            ChannelRows(t, channels_last=order) if self.wide[i] else t for t, i in zip(found, self.like, strict=True)
        ]
        for tile in _tiles(inputs[0].data.shape, tensors[1].shape[1], x.device):
            values = self.function(*[_read(source, tile, dtype) for source in inputs])
            for target, value in zip(targets, values, strict=True):
                _add(target, tile, value)
        return tuple(t.to(tensors[i].dtype) for t, i in zip(found, self.like, strict=True))

    def at_once(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The same in a single tile, by operations that PyTorch can differentiate and transform."""
        n, c, *spatial = tensors[0].shape
        dtype = arithmetic_dtype(*tensors)
        inputs = [t.transpose(0, 1).flatten(1) if w else t for t, w in zip(tensors, self.wide, strict=True)]
        found = self.function(*[t.to(dtype) for t in inputs])
        whole = [
            t.reshape(c, n, *spatial).transpose(0, 1) if self.wide[i] else t
            for t, i in zip(found, self.like, strict=True)
        ]
        return tuple(t.to(tensors[i].dtype) for t, i in zip(whole, self.like, strict=True))


def _tiles(shape: tuple[int, ...], size: int, device: torch.device) -> Iterator[Tile]:
    """Index triples that cover ``(C, A, B)`` once, each with at most about one tile of values for ``size`` points."""
    budget = max(1, (CPU_TILE if device.type == "cpu" else GPU_TILE) // size)
    c, a, b = shape
    step_b = max(1, min(b, budget))
    step_a = max(1, min(a, budget // step_b))
    step_c = max(1, min(c, budget // (step_a * step_b)))
    sizes = ((c, step_c), (a, step_a), (b, step_b))
    return product(*([slice(i, min(i + step, n)) for i in range(0, n, step)] for n, step in sizes))


def _read(source: ChannelRows | Tensor, tile: Tile, dtype: torch.dtype) -> Tensor:
    """The tile of a wide input as ``(c, n)``, or the rows of a small one."""
    if isinstance(source, ChannelRows):
        return source.read(tile).to(dtype).flatten(1)
    return source if source.shape[0] == 1 else source[tile[0]]


def _add(target: ChannelRows | Tensor, tile: Tile, value: Tensor) -> None:
    """Store the tile of a wide output, or add to a small one."""
    if isinstance(target, ChannelRows):
        target.write(tile, value.view([s.stop - s.start for s in tile]))
    else:
        rows = target if target.shape[0] == 1 else target[tile[0]]
        rows += value
